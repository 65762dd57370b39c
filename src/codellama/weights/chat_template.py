"""The chat template that is embedded in a GGUF of 70B Instruct.

Programs that know nothing of Code Llama render it, tokenize the text as one string with special tokens
on, and reach the ids of Meta's `dialog_prompt_tokens` (meta-llama/codellama, llama/generation.py). The
published template writes ` <step> `, whose spaces cost a token 29871 on either side; this one writes
`<step>` bare. It also inserts the empty system turn that Meta inserts, gives an empty turn no body, and
refuses what Meta refuses: roles out of order and `<step>` in a message.
"""

from __future__ import annotations

_TEMPLATE = """\
{%- set offset = 0 if messages[0]['role'] == 'system' else 1 -%}
{{- bos_token -}}
{%- if offset -%}
    {{- '@Source: system<step>' -}}
{%- endif -%}
{%- for message in messages -%}
    {%- set place = loop.index0 + offset -%}
    {%- set expected = 'system' if place == 0 else ('user' if place % 2 else 'assistant') -%}
    {%- if message['role'] != expected -%}
        {{- raise_exception('Conversation roles must be system (optional), user, assistant, user, ...') -}}
    {%- endif -%}
    {%- if message['content'] is not string -%}
        {{- raise_exception('The content of a message must be text') -}}
    {%- endif -%}
    {%- if '<step>' in message['content'] -%}
        {{- raise_exception('<step> is a control token: it is not allowed in a message') -}}
    {%- endif -%}
    {{- '@Source: ' + message['role'] -}}
    {%- if message['content'] -%}
        {{- '\\n\\n ' + (message['content'] | trim) -}}
    {%- endif -%}
    {{- '<step>' -}}
{%- endfor -%}
{%- if messages[-1]['role'] != 'user' -%}
    {{- raise_exception('The last message must be from the user') -}}
{%- endif -%}
{{- '@Source: assistant\\nDestination: user\\n\\n ' -}}
"""


def turn_template(*, add_space_prefix: bool) -> str:
    """The Jinja template of the turn format.

    `add_space_prefix` is the GGUF's key of that name (true when absent): with it llama.cpp puts the
    space before each `Source:` itself, without it the template has to.
    """
    return _TEMPLATE.replace("@", "" if add_space_prefix else " ")
