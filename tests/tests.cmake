# Tests mirror the tree: tests/unit/ROOM/x_test.c links room ROOM and what lies below it.
pkg_check_modules(CMOCKA REQUIRED IMPORTED_TARGET cmocka)
set(TEST_BIN ${CMAKE_BINARY_DIR}/tests)

foreach(room base wire link kernels topology worker schedule text fleet door coordinator)
    file(GLOB found CONFIGURE_DEPENDS ${CMAKE_SOURCE_DIR}/tests/unit/${room}/*_test.c)
    foreach(src ${found})
        get_filename_component(stem ${src} NAME_WE)
        set(name unit_${room}_${stem})
        add_executable(${name} ${src})
        set_target_properties(${name} PROPERTIES RUNTIME_OUTPUT_DIRECTORY ${TEST_BIN})
        target_link_libraries(${name} PRIVATE ${room} PkgConfig::CMOCKA)
        add_test(NAME ${name} COMMAND ${name} WORKING_DIRECTORY ${CMAKE_SOURCE_DIR})
        set_tests_properties(${name} PROPERTIES TIMEOUT 300 LABELS unit)
    endforeach()
endforeach()

# Programs of tests/golden/*.c link everything; they are run by the scripts beside them.
file(GLOB found CONFIGURE_DEPENDS ${CMAKE_SOURCE_DIR}/tests/golden/*.c)
foreach(src ${found})
    get_filename_component(stem ${src} NAME_WE)
    add_executable(${stem} ${src})
    set_target_properties(${stem} PROPERTIES RUNTIME_OUTPUT_DIRECTORY ${TEST_BIN})
    target_link_libraries(${stem} PRIVATE coordinator worker)
endforeach()

# Fuzz targets: tests/fuzz/ROOM_x_fuzz.c links room ROOM (the part before the first underscore).
if(TRIREME_SANITIZE)
    file(GLOB found CONFIGURE_DEPENDS ${CMAKE_SOURCE_DIR}/tests/fuzz/*_fuzz.c)
    foreach(src ${found})
        get_filename_component(stem ${src} NAME_WE)
        string(REGEX REPLACE "_.*" "" room ${stem})
        add_executable(${stem} ${src})
        set_target_properties(${stem} PROPERTIES RUNTIME_OUTPUT_DIRECTORY ${TEST_BIN})
        target_link_options(${stem} PRIVATE -fsanitize=fuzzer)
        target_link_libraries(${stem} PRIVATE ${room})
        add_test(NAME fuzz_${stem}
                 COMMAND ${CMAKE_SOURCE_DIR}/tests/fuzz/run_one.sh $<TARGET_FILE:${stem}>
                 WORKING_DIRECTORY ${CMAKE_SOURCE_DIR})
        set_tests_properties(fuzz_${stem} PROPERTIES TIMEOUT 300 LABELS fuzz)
    endforeach()
endif()

# Real processes and real models: Python scripts that exit 77 (and say why) where they cannot run.
function(script_test name seconds)
    add_test(NAME ${name} COMMAND ${ARGN} WORKING_DIRECTORY ${CMAKE_SOURCE_DIR})
    set_tests_properties(${name} PROPERTIES TIMEOUT ${seconds} SKIP_RETURN_CODE 77 LABELS system
                         RUN_SERIAL TRUE ENVIRONMENT "TRIREME_BUILD=${CMAKE_BINARY_DIR}")
endfunction()
if(NOT TRIREME_SANITIZE)
    script_test(cluster_splits_smollm2 400 python3 tests/cluster/test_splits.py smollm2)
    script_test(cluster_splits_gemma3 400 python3 tests/cluster/test_splits.py gemma3)
    script_test(cluster_survival 400 python3 tests/cluster/test_survival.py)
    script_test(cluster_soak 300 python3 tests/cluster/test_soak.py)
    script_test(cluster_openai 300 python3 tests/cluster/test_openai.py)
endif()

# The front door with a mock engine: tests/http runs against it, and unit tests of the door use it.
if(EXISTS ${CMAKE_SOURCE_DIR}/tests/http/door_mock.c)
    add_library(mock_engine STATIC ${CMAKE_SOURCE_DIR}/tests/unit/door/mock_engine.c)
    target_link_libraries(mock_engine PUBLIC door)
    add_executable(door_mock ${CMAKE_SOURCE_DIR}/tests/http/door_mock.c)
    set_target_properties(door_mock PROPERTIES RUNTIME_OUTPUT_DIRECTORY ${TEST_BIN})
    target_link_libraries(door_mock PRIVATE mock_engine)
endif()
