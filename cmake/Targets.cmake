# One library a folder, one test a source file.

set(TTT_WARNINGS -Wall -Wextra -Wno-sign-compare -Wno-missing-field-initializers)
if(TTT_WERROR)
  list(APPEND TTT_WARNINGS -Werror)
endif()

add_library(ttt_options INTERFACE)
target_include_directories(ttt_options INTERFACE ${PROJECT_SOURCE_DIR})
target_compile_features(ttt_options INTERFACE cxx_std_20)
target_compile_options(ttt_options INTERFACE "$<$<COMPILE_LANGUAGE:CXX>:${TTT_WARNINGS}>")
if(TTT_SANITIZE)
  target_compile_options(ttt_options INTERFACE
    "$<$<COMPILE_LANGUAGE:CXX>:-fsanitize=${TTT_SANITIZE};-fno-omit-frame-pointer>")
  target_link_options(ttt_options INTERFACE -fsanitize=${TTT_SANITIZE})
endif()
if(TTT_FUZZ)
  # What the fuzzer steers by, and a finding of any sanitizer ends the program.
  target_compile_options(ttt_options INTERFACE
    "$<$<COMPILE_LANGUAGE:CXX>:-fsanitize=fuzzer-no-link;-fno-sanitize-recover=all>")
endif()

# ttt_library(name SOURCES a.cc ... DEPS lib ...)
function(ttt_library name)
  cmake_parse_arguments(arg "" "" "SOURCES;DEPS" ${ARGN})
  add_library(${name} STATIC ${arg_SOURCES})
  target_link_libraries(${name} PUBLIC ttt_options ${arg_DEPS})
endfunction()

# Programs keep the symbols of the archives in them to themselves: the packaged
# SentencePiece carries another protobuf, and the two must not meet.
function(ttt_hide_archives target)
  # clang's sanitizers are in an archive too, and the shared libraries need them.
  set(hidden $<IF:$<BOOL:${TTT_FUZZ}>,libprotobuf.a,ALL>)
  target_link_options(${target} PRIVATE
    -Wl,--exclude-libs,${hidden} -Wl,--as-needed -Wl,--gc-sections -Wl,--disable-new-dtags)
endfunction()

# ttt_binary(name SOURCES a.cc ... DEPS lib ...)
function(ttt_binary name)
  cmake_parse_arguments(arg "" "" "SOURCES;DEPS" ${ARGN})
  add_executable(${name} ${arg_SOURCES})
  target_link_libraries(${name} PRIVATE ttt_options ${arg_DEPS})
  ttt_hide_archives(${name})
  set_target_properties(${name} PROPERTIES INSTALL_RPATH "$ORIGIN/../lib")
endfunction()

# ttt_test(name SOURCES a.cc ... DEPS lib ... LABELS unit [TIMEOUT seconds])
# A GoogleTest program; LABELS as in the style guide: unit, grpc, gpu, slow, fuzz, and
# threads as well for a test that is worth running under ThreadSanitizer. The target
# tests_LABEL builds the programs of a label.
function(ttt_test name)
  cmake_parse_arguments(arg "" "TIMEOUT" "SOURCES;DEPS;LABELS" ${ARGN})
  if(NOT arg_LABELS)
    set(arg_LABELS unit)
  endif()
  if(NOT arg_TIMEOUT)
    set(arg_TIMEOUT 300)
  endif()
  add_executable(${name} ${arg_SOURCES})
  target_link_libraries(${name} PRIVATE ttt_options ${arg_DEPS}
    GTest::gmock GTest::gtest GTest::gtest_main)
  ttt_hide_archives(${name})
  set_target_properties(${name} PROPERTIES
    RUNTIME_OUTPUT_DIRECTORY ${PROJECT_BINARY_DIR}/tests)
  target_compile_definitions(${name} PRIVATE
    TTT_GOLDEN_DIR="${PROJECT_SOURCE_DIR}/tests/golden"
    TTT_SOURCE_DIR="${PROJECT_SOURCE_DIR}")
  add_test(NAME ${name} COMMAND ${name} WORKING_DIRECTORY ${PROJECT_BINARY_DIR})
  set_tests_properties(${name} PROPERTIES LABELS "${arg_LABELS}" TIMEOUT ${arg_TIMEOUT})
  foreach(label IN LISTS arg_LABELS)
    if(NOT TARGET tests_${label})
      add_custom_target(tests_${label})
    endif()
    add_dependencies(tests_${label} ${name})
  endforeach()
endfunction()

# Of a test that needs a GPU: without one it tests nothing, and that is a failure.
set(ttt_gpu_properties LABELS gpu TIMEOUT 600 RESOURCE_LOCK gpu
  PASS_REGULAR_EXPRESSION "PASSED  . [1-9]" FAIL_REGULAR_EXPRESSION "FAILED  |SKIPPED ")

# ttt_gpu_test(name): once more, the tests of a program that are of a GPU.
function(ttt_gpu_test name)
  add_test(NAME ${name}_gpu COMMAND ${name} --gtest_filter=*Cuda*
    WORKING_DIRECTORY ${CMAKE_BINARY_DIR})
  set_tests_properties(${name}_gpu PROPERTIES ${ttt_gpu_properties})
  if(NOT TARGET tests_gpu)
    add_custom_target(tests_gpu)
  endif()
  add_dependencies(tests_gpu ${name})
endfunction()
