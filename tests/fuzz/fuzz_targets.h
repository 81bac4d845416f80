// The fuzz targets: each reads bytes that came from outside as the program
// does, and checks what must hold whatever they are. A broken promise ends the
// process. Built twice: into a program of libFuzzer each, and into corpus_test,
// which runs the inputs of corpus/ in every build.
#pragma once

#include "absl/strings/string_view.h"

namespace ttt {

// Files of a model directory.
void FuzzSafetensors(absl::string_view file);
void FuzzIndex(absl::string_view file);
void FuzzConfig(absl::string_view file);
void FuzzTokenizerModel(absl::string_view file);

// Token ids to text, in pieces and at once; see detokenizer.cc for the bytes.
void FuzzDetokenizer(absl::string_view bytes);

// A serialized fuzz::SamplerCase.
void FuzzSampler(absl::string_view bytes);

// Serialized requests of the API.
void FuzzComplete(absl::string_view bytes);
void FuzzScore(absl::string_view bytes);
void FuzzCreateSession(absl::string_view bytes);
void FuzzSessionName(
    absl::string_view bytes);  // Get and Delete, which are alike
void FuzzListSessions(absl::string_view bytes);
void FuzzForkSession(absl::string_view bytes);
void FuzzTokenize(absl::string_view bytes);
void FuzzDetokenize(absl::string_view bytes);

// A serialized fuzz::ReplyCase: what a server could tell the client.
void FuzzClientReply(absl::string_view bytes);

}  // namespace ttt
