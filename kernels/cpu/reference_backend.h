// The reference ops as a backend: one thread, no instruction set above the
// baseline, and no library for the products.
#pragma once

#include <memory>

#include "kernels/backend.h"

namespace ttt {

std::unique_ptr<Backend> CreateReferenceBackend(Precision precision);

}  // namespace ttt
