# Turns text files into a C++ source, so that the binary needs no files beside it. Two uses:
#   include(cmake/embed.cmake) then capstan_embed(OUTPUT HEADER FUNCTION file...): at configure time, adds the rule;
#   cmake -DOUTPUT=.. -DHEADER=.. -DFUNCTION=.. -DFILES="a;b" -P cmake/embed.cmake: at build time, writes OUTPUT.
# The source defines std::span<const capstan::EmbeddedFile> capstan::FUNCTION(), sorted by file name.
set(CAPSTAN_EMBED_SCRIPT ${CMAKE_CURRENT_LIST_FILE})

function(capstan_embed OUTPUT HEADER FUNCTION)
  string(REPLACE ";" "\\;" files "${ARGN}")
  add_custom_command(OUTPUT ${OUTPUT}
    COMMAND ${CMAKE_COMMAND} -DOUTPUT=${OUTPUT} -DHEADER=${HEADER} -DFUNCTION=${FUNCTION} "-DFILES=${files}"
            -P ${CAPSTAN_EMBED_SCRIPT}
    DEPENDS ${ARGN} ${CAPSTAN_EMBED_SCRIPT}
    COMMENT "Embedding ${FUNCTION}" VERBATIM)
endfunction()

if(CMAKE_SCRIPT_MODE_FILE STREQUAL CMAKE_CURRENT_LIST_FILE)
  list(SORT FILES)
  set(rows "")
  foreach(file ${FILES})
    get_filename_component(name ${file} NAME_WLE)
    file(READ ${file} text)
    string(APPEND rows "    {\"${name}\", R\"__embedded__(${text})__embedded__\"},\n")
  endforeach()
  file(WRITE ${OUTPUT} "// Made by cmake/embed.cmake.\n#include \"${HEADER}\"\n\nnamespace capstan {\n\n"
    "std::span<const EmbeddedFile> ${FUNCTION}() {\n  static constexpr EmbeddedFile files[] = {\n${rows}  };\n"
    "  return files;\n}\n\n}  // namespace capstan\n")
endif()
