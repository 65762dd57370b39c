# Included right after llama-cpp-python's project() call: leaves out llama.cpp's "common" library, which
# only its command-line tools use and which takes half of the build.
set(LLAMA_BUILD_COMMON OFF)
