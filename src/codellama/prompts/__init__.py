"""Messages, text, or what stands before and behind a gap, as the token ids that Meta's code would feed.

Pure: a vocabulary is enough, no model is needed. `Prompts` is the way in.
"""
