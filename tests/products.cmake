# Tests of whole products: scripts in tests/launch. The first lines of a script say its label, and more when needed:
#   # label: plan|cpu|ranks|mpi|slow        # timeout: SECONDS
# Exit 77 means skipped; the script then prints a line that begins with SKIP and says why.
# They find the program in CAPSTAN_BINARY and this tree in CAPSTAN_SOURCE. Python is the distribution's, which has h5py.
find_program(CAPSTAN_TEST_PYTHON python3 PATHS /usr/bin NO_DEFAULT_PATH REQUIRED)
find_program(CAPSTAN_TEST_BASH bash REQUIRED)

file(GLOB products CONFIGURE_DEPENDS launch/*.sh launch/*.py)
foreach(file ${products})
  get_filename_component(name ${file} NAME_WE)
  get_filename_component(extension ${file} EXT)
  file(STRINGS ${file} head LIMIT_COUNT 8)
  string(REGEX MATCH "# label: ([a-z]+)" matched "${head}")
  if(NOT matched)
    continue()  # a helper that tests share
  endif()
  set(label ${CMAKE_MATCH_1})
  set(timeout 300)
  if("${head}" MATCHES "# timeout: ([0-9]+)")
    set(timeout ${CMAKE_MATCH_1})
  endif()
  set(interpreter ${CAPSTAN_TEST_BASH})
  if(extension STREQUAL ".py")
    set(interpreter ${CAPSTAN_TEST_PYTHON} -B)
  endif()
  add_test(NAME product.${name} COMMAND ${interpreter} ${file})
  if(label STREQUAL mpi)
    set_tests_properties(product.${name} PROPERTIES RESOURCE_LOCK mpirun)  # see tests/CMakeLists.txt
  endif()
  set_tests_properties(product.${name} PROPERTIES LABELS ${label} TIMEOUT ${timeout} SKIP_RETURN_CODE 77
    ENVIRONMENT "CAPSTAN_BINARY=$<TARGET_FILE:capstan>;CAPSTAN_SOURCE=${CMAKE_SOURCE_DIR};CAPSTAN_BUILD=${CMAKE_BINARY_DIR};OMP_WAIT_POLICY=passive")
endforeach()
