# The CUDA backend: libtrireme-cuda.so by nvcc, and the same sources for the host, for the tests:
# cuda_host (objects) and libtrireme-cuda-host.so.
file(GLOB CUDA_SOURCES CONFIGURE_DEPENDS ${CMAKE_SOURCE_DIR}/kernels/cuda/*.cu)
file(GLOB CUDA_C CONFIGURE_DEPENDS ${CMAKE_SOURCE_DIR}/kernels/cuda/*.c)
file(GLOB CUDA_HOST CONFIGURE_DEPENDS ${CMAKE_SOURCE_DIR}/kernels/cuda/*_host.cc)

# Files that wrap a library of the device have a twin *_host.cc, or are left out on the host.
set(CUDA_ON_HOST ${CUDA_SOURCES})
list(FILTER CUDA_ON_HOST EXCLUDE REGEX "/(device|blas|nccl_open)\\.cu$")

if(TRIREME_TESTS)
    # nvcc's language of a .cu file is chosen by file and folder, and so is this one's: the host's
    # objects are made from one-line files that include the sources.
    set(TWINS)
    foreach(src ${CUDA_ON_HOST})
        get_filename_component(stem ${src} NAME_WE)
        set(twin ${CMAKE_BINARY_DIR}/generated/cuda_host/${stem}.cc)
        if(NOT EXISTS ${twin})
            file(WRITE ${twin} "#include \"kernels/cuda/${stem}.cu\"\n")
        endif()
        list(APPEND TWINS ${twin})
    endforeach()
    add_library(cuda_host OBJECT ${TWINS} ${CUDA_HOST} ${CUDA_C})
    target_compile_features(cuda_host PRIVATE cxx_std_20)
    target_compile_options(cuda_host PRIVATE -Wno-unknown-pragmas -Wno-pass-failed)
    if(TRIREME_SANITIZE) # unrolled and counted kernels take minutes to compile
        target_compile_options(cuda_host PRIVATE -O1 -fno-sanitize=fuzzer-no-link
                               ${SANITIZE_NO_POINTERS})
    endif()
    add_library(kernels_cuda_host MODULE $<TARGET_OBJECTS:cuda_host>)
    target_link_libraries(kernels_cuda_host PRIVATE kernels base)
    set_target_properties(kernels_cuda_host PROPERTIES OUTPUT_NAME trireme-cuda-host PREFIX lib
                          LIBRARY_OUTPUT_DIRECTORY ${CMAKE_BINARY_DIR})
endif()

if(TRIREME_CUDA_BUILD)
    # sm_121 is assembled from what is compiled for sm_90: nothing here needs more than that has,
    # and compiling is two thirds of the time.
    set(TRIREME_CUDA_TARGETS "" CACHE STRING "CUDA_ARCHITECTURES; empty: sm_86, sm_90, sm_121, PTX")
    set(ARCHITECTURES ${TRIREME_CUDA_TARGETS})
    set(GENERATE)
    if(NOT ARCHITECTURES)
        set(ARCHITECTURES OFF)
        set(GENERATE "--generate-code=arch=compute_86,code=[sm_86]"
            "--generate-code=arch=compute_90,code=[compute_90,sm_90,sm_121]")
    endif()
    add_library(kernels_cuda MODULE ${CUDA_SOURCES} ${CUDA_C})
    set_target_properties(kernels_cuda PROPERTIES OUTPUT_NAME trireme-cuda PREFIX lib
                          LIBRARY_OUTPUT_DIRECTORY ${CMAKE_BINARY_DIR}
                          CUDA_RUNTIME_LIBRARY Static
                          CUDA_VISIBILITY_PRESET hidden
                          CUDA_ARCHITECTURES "${ARCHITECTURES}")
    target_compile_options(kernels_cuda PRIVATE
        "$<$<COMPILE_LANGUAGE:CUDA>:${GENERATE}>"
        $<$<COMPILE_LANGUAGE:CUDA>:-std=c++20 -Werror=all-warnings --fmad=false -lineinfo
        -Xcompiler=-Wall,-Wextra,-Wno-unknown-pragmas,-ffp-contract=off>)
    find_library(CUBLASLT cublasLt HINTS ${CMAKE_CUDA_COMPILER}/../../lib64
                 PATHS /usr/local/cuda/lib64 REQUIRED)
    target_link_libraries(kernels_cuda PRIVATE kernels base ${CUBLASLT})
    target_link_options(kernels_cuda PRIVATE "LINKER:-z,defs") # nothing is left for the program
endif()
