"""Changes that a model proposes for files: what it is asked, in which form it may answer, what becomes of it.

Pure: texts in, texts out. A large file is changed by blocks, each with lines that stand in the file and the
lines that take their place. A short one is written anew as a whole. Either way a grammar holds the answer to
its form, so lines to be replaced are always lines of the file.
"""
