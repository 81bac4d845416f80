# What `cmake --install` lays down; scripts/dist adds the shared libraries that the
# programs need and their licences.
install(TARGETS tttd ttt ttt_engine_bench ttt_op_bench RUNTIME DESTINATION bin)
install(DIRECTORY proto/ttt proto/google DESTINATION share/tttd/proto
  FILES_MATCHING PATTERN "*.proto")
if(EXISTS ${PROJECT_SOURCE_DIR}/models)
  install(DIRECTORY models/ DESTINATION share/tttd/models)
endif()
install(FILES README.md LICENSE DESTINATION share/doc/tttd)
