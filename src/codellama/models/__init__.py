"""Which file the name of a model means.

A name is a path, a file in a models folder, a published model (`70b-instruct:Q8_0`), a file of a
repository (`TheBloke/CodeLlama-70B-Instruct-GGUF:Q4_K_M`), a model of Ollama (`ollama:codellama:70b`) or
`demo`. `obtain` fetches what is not here, if that is what the caller wants.
"""

from codellama.models.demo import DEMO, demo_checkpoint, demo_gguf, has_demo
from codellama.models.folders import cache_folder, models_folders, new_models_folder
from codellama.models.hub_name import HubName
from codellama.models.local import LocalModel, local_models, usable
from codellama.models.obtain import obtain
from codellama.models.resolve import find_variant, resolve_model
from codellama.models.stores import StoredModel, stored_models

__all__ = [
    "DEMO",
    "HubName",
    "LocalModel",
    "StoredModel",
    "cache_folder",
    "demo_checkpoint",
    "demo_gguf",
    "find_variant",
    "has_demo",
    "local_models",
    "models_folders",
    "new_models_folder",
    "obtain",
    "resolve_model",
    "stored_models",
    "usable",
]
