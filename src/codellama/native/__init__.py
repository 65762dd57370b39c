"""llama.cpp through `llama_cpp`: thin objects over its C functions, no policy.

Whatever is imported from here loads llama.cpp first, in the one way in which its threads wait well
(`waiting`).
"""

from codellama.native.waiting import load_llama_cpp

load_llama_cpp()
