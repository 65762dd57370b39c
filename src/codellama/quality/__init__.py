"""How good a quantized file is: perplexity, divergence from a base, answers that are run, and the card.

A text is cut into chunks, and each chunk is decoded from an empty context. `statistics` turns logits into
numbers, `scoring` gets the logits, `measure` goes from chunk to chunk and keeps what is done. `card` shows
the numbers of several files side by side.

The text is `code.txt`, unless another is given. It is a copy of some of this package's own code, of one day:
a text that changed with the package would make numbers that cannot be compared.
"""
