# cistern_library(name [SOURCES file...] DEPS target...): a static library of the current folder's .cc files.
function(cistern_library name)
  cmake_parse_arguments(L "" "" "SOURCES;DEPS" ${ARGN})
  if(NOT L_SOURCES)
    file(GLOB L_SOURCES CONFIGURE_DEPENDS ${CMAKE_CURRENT_SOURCE_DIR}/*.cc)
  endif()
  add_library(${name} STATIC ${L_SOURCES})
  target_link_libraries(${name} PUBLIC $<BUILD_INTERFACE:cistern_flags> ${L_DEPS})
endfunction()
