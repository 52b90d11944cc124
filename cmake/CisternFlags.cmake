# One place for how Cistern is compiled: C++20, warnings are errors, the sanitizers of a preset.
set(CMAKE_CXX_STANDARD 20)
set(CMAKE_CXX_STANDARD_REQUIRED ON)
set(CMAKE_CXX_EXTENSIONS OFF)
set(CMAKE_POSITION_INDEPENDENT_CODE ON)

if(NOT CMAKE_BUILD_TYPE)
  set(CMAKE_BUILD_TYPE RelWithDebInfo CACHE STRING "Debug, RelWithDebInfo or Release" FORCE)
endif()

set(CISTERN_SANITIZE "" CACHE STRING "Sanitizers to build with, for example address,undefined or thread")

find_program(CISTERN_CCACHE ccache)
if(CISTERN_CCACHE AND NOT CMAKE_CXX_COMPILER_LAUNCHER)
  set(CMAKE_CXX_COMPILER_LAUNCHER ${CISTERN_CCACHE})
  set(CMAKE_C_COMPILER_LAUNCHER ${CISTERN_CCACHE})
endif()

set(CMAKE_CXX_FLAGS_RELWITHDEBINFO "-O2 -g1 -DNDEBUG")
set(CMAKE_CXX_FLAGS_DEBUG "-g1")

add_library(cistern_flags INTERFACE)
target_compile_options(cistern_flags INTERFACE
  -Wall -Wextra -Wpedantic -Wshadow -Wconversion -Wnon-virtual-dtor -Woverloaded-virtual
  -Wnull-dereference -Werror)
if(CMAKE_CXX_COMPILER_ID STREQUAL "GNU")
  # g++ 12 sees null dereferences and overflows in inlined library code that are not there.
  target_compile_options(cistern_flags INTERFACE -Wno-null-dereference -Wno-error=stringop-overflow
    -Wno-error=array-bounds -Wno-error=maybe-uninitialized -Wno-error=restrict)
endif()
target_include_directories(cistern_flags INTERFACE ${CMAKE_SOURCE_DIR})

if(CISTERN_SANITIZE)
  # Optimising code that carries AddressSanitizer's and UndefinedBehaviorSanitizer's checks takes
  # g++ 12 twice as long as compiling it (15.7 against 7.0 s for one file); ThreadSanitizer's don't,
  # and what is fuzzed runs a million times.
  if(CISTERN_SANITIZE MATCHES "thread|fuzzer")
    add_compile_options(-O1)
  else()
    add_compile_options(-O0)
  endif()
  add_compile_options(-fsanitize=${CISTERN_SANITIZE} -fno-omit-frame-pointer
                      -fno-sanitize-recover=all -g1)
  add_link_options(-fsanitize=${CISTERN_SANITIZE})
  target_compile_definitions(cistern_flags INTERFACE CISTERN_SANITIZED=1)
  if(CISTERN_SANITIZE MATCHES "thread")
    # Fences are not modelled by ThreadSanitizer; g++ warns where a library uses one.
    target_compile_options(cistern_flags INTERFACE -Wno-tsan)
  endif()
endif()
if(CMAKE_BUILD_TYPE STREQUAL "Debug")
  target_compile_definitions(cistern_flags INTERFACE CISTERN_DCHECK=1)
endif()
