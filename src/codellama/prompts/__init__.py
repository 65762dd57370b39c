"""Messages, text, or what stands before and behind a gap, as the token ids that Meta's code would
feed.

Pure: a vocabulary is enough, no model is needed. `Prompts` is the way in.

Turns are tokenized one by one with special parsing off, and the id of `<step>` is put between them.
Tokenizing the whole string, as other programs do, puts a stray space token on both sides of every
`<step>`: 57 ids instead of the model card's 49. Text that a user typed never becomes a control
token. ` <PRE>` and its
kin are ordinary merges in 7B and 13B. Such tags are cut in the middle before tokenizing, which
leaves the text as it is.

A GGUF made by another converter may be wrong about two things, which are overridden when it is
loaded. The end of turn of a vocabulary with `<step>` is `<step>` (they write 32010). The
70B's tokenizer puts no space before a text (they leave that out). Tokens that somebody added behind
`<step>` change neither.
"""
