# The packages of the system. gRPC, protobuf and Abseil are taken as archives, so
# that programs run where the packages are not installed; their CMake configs name
# the shared objects only, hence the paths.
find_package(Threads REQUIRED)
find_package(PkgConfig REQUIRED)
if(PROJECT_IS_TOP_LEVEL)
  find_package(GTest REQUIRED)
endif()
find_package(nlohmann_json REQUIRED)
find_program(PROTOC protoc REQUIRED)
find_program(GRPC_CPP_PLUGIN grpc_cpp_plugin REQUIRED)
pkg_check_modules(GRPCPP REQUIRED grpc++)

function(ttt_archives out)
  set(found)
  foreach(name IN LISTS ARGN)
    if(name MATCHES "^(pthread|dl|rt|m|atomic)$")
      continue()
    endif()
    find_library(archive_${name} NAMES lib${name}.a REQUIRED)
    list(APPEND found ${archive_${name}})
  endforeach()
  list(REMOVE_DUPLICATES found)
  set(${out} ${found} PARENT_SCOPE)
endfunction()

# Archives that need each other. CMake keeps such a group together; it would drop a
# second pair of --start-group and --end-group as a repeated option.
function(ttt_link_group target)
  list(JOIN ARGN "," archives)
  target_link_libraries(${target} INTERFACE
    "$<LINK_GROUP:RESCAN,${archives}>" Threads::Threads ${CMAKE_DL_LIBS})
endfunction()

# Abseil: strings, status, containers, time, flags.
ttt_archives(TTT_ABSL_BASE absl_base)
get_filename_component(archive_dir ${TTT_ABSL_BASE} DIRECTORY)
file(GLOB TTT_ABSL_ARCHIVES ${archive_dir}/libabsl_*.a)
add_library(ttt_absl INTERFACE)
ttt_link_group(ttt_absl ${TTT_ABSL_ARCHIVES})

# gRPC and protobuf.
ttt_archives(TTT_PROTOBUF_ARCHIVES protobuf)
add_library(ttt_protobuf INTERFACE)
target_link_libraries(ttt_protobuf INTERFACE ${TTT_PROTOBUF_ARCHIVES} Threads::Threads)
ttt_archives(TTT_GRPC_ARCHIVES grpc++_reflection ${GRPCPP_STATIC_LIBRARIES} protobuf)
# Abseil comes after the group, as one of its members needs it. SentencePiece too: its
# shared library has another protobuf, whose functions would be taken for ours.
list(REMOVE_ITEM TTT_GRPC_ARCHIVES ${TTT_ABSL_ARCHIVES} ${archive_grpc})
add_library(ttt_grpc_core STATIC IMPORTED)
set_target_properties(ttt_grpc_core PROPERTIES
  IMPORTED_LOCATION ${archive_grpc} INTERFACE_LINK_LIBRARIES "ttt_absl;ttt_sentencepiece")
add_library(ttt_grpc INTERFACE)
ttt_link_group(ttt_grpc ttt_grpc_core ${TTT_GRPC_ARCHIVES})

# Packaged as shared objects only; `make dist` carries them.
find_library(TTT_PROMETHEUS_PULL prometheus-cpp-pull REQUIRED)
find_library(TTT_PROMETHEUS_CORE prometheus-cpp-core REQUIRED)
add_library(ttt_prometheus INTERFACE)
target_link_libraries(ttt_prometheus INTERFACE ${TTT_PROMETHEUS_PULL} ${TTT_PROMETHEUS_CORE})
find_library(TTT_CIVETWEB civetweb REQUIRED)
add_library(ttt_civetweb INTERFACE)
target_link_libraries(ttt_civetweb INTERFACE ${TTT_CIVETWEB})
find_library(TTT_SENTENCEPIECE sentencepiece REQUIRED)
add_library(ttt_sentencepiece INTERFACE)
target_link_libraries(ttt_sentencepiece INTERFACE ${TTT_SENTENCEPIECE})
find_library(TTT_DNNL dnnl REQUIRED)
add_library(ttt_dnnl INTERFACE)
target_link_libraries(ttt_dnnl INTERFACE ${TTT_DNNL})

# The CUDA toolkit, if there is one.
set(TTT_HAVE_CUDA OFF)
if(NOT TTT_CUDA STREQUAL "OFF")
  include(CheckLanguage)
  check_language(CUDA)
  if(CMAKE_CUDA_COMPILER)
    set(CMAKE_CUDA_ARCHITECTURES 90a-real)
    set(CMAKE_CUDA_STANDARD 17)
    set(CMAKE_CUDA_RUNTIME_LIBRARY Static)
    enable_language(CUDA)
    find_package(CUDAToolkit REQUIRED)
    set(TTT_HAVE_CUDA ON)
  elseif(TTT_CUDA STREQUAL "ON")
    message(FATAL_ERROR "TTT_CUDA=ON, and no CUDA compiler was found")
  endif()
endif()
message(STATUS "CUDA backend: ${TTT_HAVE_CUDA}")
