# What Cistern is built with, each an installed Debian package; a missing one names its package.
# `deploy/install-deps` installs all of them.
find_package(PkgConfig QUIET)
if(NOT PkgConfig_FOUND)
  message(FATAL_ERROR "pkg-config is missing. Install the Debian package pkg-config, or run deploy/install-deps.")
endif()
find_package(Threads REQUIRED)

# cistern_dependency(TARGET name MODULE pkg-config-name | HEADER header  PACKAGE debian-package)
function(cistern_dependency)
  cmake_parse_arguments(D "" "TARGET;MODULE;HEADER;PACKAGE" "" ${ARGN})
  if(D_MODULE)
    pkg_check_modules(${D_TARGET} QUIET IMPORTED_TARGET GLOBAL ${D_MODULE})
    set(found ${${D_TARGET}_FOUND})
    set(what ${D_MODULE})
    if(found)
      add_library(dep::${D_TARGET} ALIAS PkgConfig::${D_TARGET})
    endif()
  else()
    find_path(${D_TARGET}_DIR ${D_HEADER})
    set(found ${${D_TARGET}_DIR})
    set(what ${D_HEADER})
    if(found)
      add_library(dep_${D_TARGET} INTERFACE)
      target_include_directories(dep_${D_TARGET} SYSTEM INTERFACE ${${D_TARGET}_DIR})
      add_library(dep::${D_TARGET} ALIAS dep_${D_TARGET})
    endif()
  endif()
  if(NOT found)
    message(FATAL_ERROR "${what} is missing. Install the Debian package ${D_PACKAGE}, or run deploy/install-deps.")
  endif()
endfunction()

# XXH3-64 and XXH3-128: the digests of chunks and values.
cistern_dependency(TARGET xxhash MODULE libxxhash PACKAGE libxxhash-dev)
# std::expected is missing in clang 14; std::format before g++ 13.
cistern_dependency(TARGET expected HEADER tl/expected.hpp PACKAGE libexpected-dev)
cistern_dependency(TARGET fmt MODULE fmt PACKAGE libfmt-dev)
# Sockets, timers and event loops.
cistern_dependency(TARGET asio HEADER asio.hpp PACKAGE libasio-dev)
target_compile_definitions(dep_asio INTERFACE ASIO_STANDALONE ASIO_NO_DEPRECATED)
target_link_libraries(dep_asio INTERFACE Threads::Threads)
# The Redis client: commands, small replies, the asynchronous connection.
cistern_dependency(TARGET hiredis MODULE hiredis PACKAGE libhiredis-dev)
# The memcached client: the second tier's, and the benchmark's; ketama.
cistern_dependency(TARGET memcached MODULE libmemcached PACKAGE libmemcached-dev)
# JSON: user metadata, the manifest's header, /stats.
cistern_dependency(TARGET json HEADER nlohmann/json.hpp PACKAGE nlohmann-json3-dev)
# zstd: compressed chunks, in the second tier and on the wire.
cistern_dependency(TARGET zstd MODULE libzstd PACKAGE libzstd-dev)
# The configuration file.
cistern_dependency(TARGET yaml MODULE yaml-cpp PACKAGE libyaml-cpp-dev)
# Command lines.
cistern_dependency(TARGET cli11 HEADER CLI/CLI.hpp PACKAGE libcli11-dev)
# Logs.
cistern_dependency(TARGET spdlog MODULE spdlog PACKAGE libspdlog-dev)
# The metrics' text format.
cistern_dependency(TARGET prometheus MODULE prometheus-cpp-core PACKAGE prometheus-cpp-dev)
# The admin endpoint.
cistern_dependency(TARGET httplib MODULE cpp-httplib PACKAGE libcpp-httplib-dev)
# Debian's httplib is built with it and, from 0.18 on, calls it from the header.
cistern_dependency(TARGET openssl MODULE openssl PACKAGE libssl-dev)
target_link_libraries(PkgConfig::httplib INTERFACE PkgConfig::openssl)
# The daemon's allocator: it gives memory back (decay) and reports an allocation's true size.
cistern_dependency(TARGET jemalloc MODULE jemalloc PACKAGE libjemalloc-dev)

if(BUILD_TESTING)
  find_package(GTest QUIET)
  if(NOT GTest_FOUND)
    message(FATAL_ERROR "GoogleTest is missing. Install the Debian packages libgtest-dev and libgmock-dev, or run deploy/install-deps.")
  endif()
endif()
