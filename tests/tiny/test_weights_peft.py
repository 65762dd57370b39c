"""Adapters that peft wrote, against peft itself: the same logits, the same merged weights.

And against llama.cpp's own converter: the same bytes where its scale is the right one.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from codellama.devices.contexts import context_settings
from codellama.engine.batch import Batch
from codellama.errors import CheckpointError
from codellama.files.gguf_header import read_gguf_header
from codellama.files.peft_adapter import read_adapter
from codellama.native.context import Context
from codellama.native.model import Model
from codellama.params import ModelConfig
from codellama.running.adapter_files import adapter_paths, plan_adapters
from codellama.weights.adapter_gguf import convert_adapter
from codellama.weights.convert import convert
from tests.checkpoints import Checkpoint, write_checkpoint
from tests.tiny.test_transformers import EXACT
from tests.tiny.test_weights_reference import llama_cpp_source as llama_cpp_source

pytestmark = [
    pytest.mark.reference,
    pytest.mark.filterwarnings("ignore"),  # those of peft and torch
]

SHAPE = Checkpoint(hidden=64, ffn=128, heads=4, kv_heads=2, dtype="F32", shards=2)
TOKENS = [1, 60, 70, 5, 80, 7, 90, 100, 11, 120, 130]
SOME, ALL = (
    ["q_proj", "k_proj", "v_proj", "o_proj"],
    ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"],
)


@dataclass(frozen=True)
class How:
    """Settings of an adapter; `file` says whether a LoRA GGUF can hold it, and `theirs` whether
    llama.cpp's converter makes it what peft computes."""

    settings: Mapping[str, Any] = field(default_factory=dict)
    file: bool = True
    theirs: bool = True


KINDS = {
    "attention": How({"target_modules": SOME}),
    "all linear": How({"target_modules": ALL}),
    "rslora": How({"target_modules": ALL, "use_rslora": True}, theirs=False),
    "patterns": How(
        {
            "target_modules": ALL,
            "alpha_pattern": {"q_proj": 32, r"layers\.1\.mlp\.down_proj": 3},
            "rank_pattern": {"k_proj": 3, "model.layers.0.self_attn.v_proj": 8},
        },
        theirs=False,
    ),
    "rank pattern": How({"target_modules": ALL, "rank_pattern": {"k_proj": 3, r"0\..*v_proj": 8}}),
    "lora_only": How({"target_modules": ALL, "bias": "lora_only"}),
    "embeddings": How({"target_modules": [*SOME, "embed_tokens", "lm_head"]}),
    "norms": How(
        {
            "target_modules": SOME,
            "modules_to_save": ["input_layernorm", "post_attention_layernorm", "norm"],
        },
        file=False,
    ),
    "dora": How({"target_modules": ALL, "use_dora": True}, file=False),
    "dora embeddings": How(
        {"target_modules": [*SOME, "embed_tokens", "lm_head"], "use_dora": True}, file=False
    ),
    "heads": How(
        {"target_modules": SOME, "modules_to_save": ["embed_tokens", "lm_head"]}, file=False
    ),
    "tokens": How({"target_modules": SOME, "trainable_token_indices": [5, 7, 11]}, file=False),
}


def peft_library() -> Any:
    return pytest.importorskip("peft", reason="peft is not installed: pip install -e .[reference]")


def in_float32(path: Path) -> Any:
    import torch
    from transformers import LlamaForCausalLM

    return LlamaForCausalLM.from_pretrained(path, dtype=torch.float32)


def make_adapter(base: Path, folder: Path, seed: int = 1, **settings: Any) -> Path:
    """What peft saves after a training, which is a random one here."""
    import torch

    peft = peft_library()

    torch.manual_seed(seed)
    config = peft.LoraConfig(r=4, lora_alpha=16, task_type="CAUSAL_LM", **settings)
    model = peft.get_peft_model(in_float32(base), config)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter += torch.randn_like(parameter) * 0.1
    model.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    peft_library()
    return without_sampling(write_checkpoint(tmp_path_factory.mktemp("peft") / "base", SHAPE))


def without_sampling(folder: Path) -> Path:
    """transformers refuses to save a temperature without do_sample."""
    (folder / "generation_config.json").unlink()
    return folder


@pytest.fixture(scope="module")
def gguf(base: Path) -> Path:
    convert(base, base.parent / "base.gguf", "F32")
    return base.parent / "base.gguf"


@pytest.fixture(scope="module")
def folders(base: Path) -> dict[str, Path]:
    return {
        kind: make_adapter(base, base.parent / kind.replace(" ", "-"), **how.settings)
        for kind, how in KINDS.items()
    }


def peft_model(base: Path, *folders: Path) -> Any:
    peft = peft_library()

    model = in_float32(base)
    for folder in folders:
        model = peft.PeftModel.from_pretrained(model, folder).merge_and_unload()
    return model.eval()


def torch_logits(model: Any) -> NDArray[np.float32]:
    import torch

    with torch.no_grad():
        logits: NDArray[np.float32] = model(torch.tensor([TOKENS])).logits[0].numpy()
    return logits


def adapted_logits(base: Path, folder: Path) -> NDArray[np.float32]:
    """Without merging: peft computes the change beside the model."""
    peft = peft_library()

    return torch_logits(peft.PeftModel.from_pretrained(in_float32(base), folder).eval())


def our_logits(gguf: Path, adapter: Path | None = None) -> NDArray[np.float32]:
    config = ModelConfig(**EXACT, lora=() if adapter is None else (adapter,))
    files = plan_adapters(config, read_gguf_header(gguf))
    with Model(gguf) as model, adapter_paths(files) as paths:
        context = Context(model, context_settings(config, 256))
        context.use_adapters([model.load_adapter(path) for path in paths])
        batch = Batch()
        batch.scales = tuple(1.0 for _ in paths)
        batch.add(TOKENS, 0, 0)
        batch.output_rows += range(len(TOKENS))
        context.run(batch)
        found = np.stack([context.logits(row) for row in range(len(TOKENS))])
        context.close()
    return found


def assert_alike(ours: NDArray[np.float32], wanted: NDArray[np.float32]) -> None:
    assert ours.shape == wanted.shape
    assert np.abs(ours - wanted).max() < 1e-4 * np.abs(wanted).max()


@pytest.mark.parametrize("kind", [kind for kind, how in KINDS.items() if how.file])
def test_an_adapter_acts_as_in_peft(
    base: Path, gguf: Path, folders: dict[str, Path], kind: str, tmp_path: Path
) -> None:
    wanted = adapted_logits(base, folders[kind])
    assert np.abs(wanted - our_logits(gguf)).max() > 0.5, (
        "an adapter that does nothing shows nothing"
    )
    assert_alike(our_logits(gguf, folders[kind]), wanted)
    convert_adapter(folders[kind], tmp_path / "a.gguf")
    assert_alike(our_logits(gguf, tmp_path / "a.gguf"), wanted)


@pytest.mark.parametrize(
    ("kind", "type_name"),
    [
        *((kind, "F32") for kind, how in KINDS.items() if how.file),
        *(("embeddings", type_name) for type_name in ("F16", "BF16", "Q8_0")),
    ],
)
def test_files_have_the_bytes_of_llama_cpps_converter_where_that_is_right(
    base: Path, folders: dict[str, Path], kind: str, type_name: str,
    llama_cpp_source: Path, tmp_path: Path,
) -> None:  # fmt: skip
    theirs, ours = tmp_path / "theirs.gguf", tmp_path / "ours.gguf"
    script = llama_cpp_source / "convert_lora_to_gguf.py"
    subprocess.run(
        [sys.executable, script, "--base", base, "--outfile", theirs, folders[kind],
         "--outtype", type_name.lower()], check=True, capture_output=True,
    )  # fmt: skip
    convert_adapter(folders[kind], ours, type_name)
    equal = ours.read_bytes() == theirs.read_bytes()
    assert equal == KINDS[kind].theirs


def test_llama_cpps_converter_is_wrong_where_the_bytes_differ(
    base: Path, gguf: Path, folders: dict[str, Path], llama_cpp_source: Path, tmp_path: Path
) -> None:
    """The reason for not having its bytes; should it come right, these kinds are to be compared too."""
    for kind in (kind for kind, how in KINDS.items() if not how.theirs):
        script, theirs = llama_cpp_source / "convert_lora_to_gguf.py", tmp_path / "theirs.gguf"
        command = [sys.executable, *map(str, (script, "--base", base, "--outfile", theirs))]
        subprocess.run([*command, str(folders[kind])], check=True, capture_output=True)
        wanted = adapted_logits(base, folders[kind])
        effect = np.abs(wanted - our_logits(gguf)).max()
        assert np.abs(our_logits(gguf, theirs) - wanted).max() > 0.1 * effect


@pytest.mark.parametrize("kind", [kind for kind, how in KINDS.items() if not how.file])
def test_what_a_file_cannot_hold_is_refused_with_the_remedy(
    gguf: Path, folders: dict[str, Path], kind: str, tmp_path: Path
) -> None:
    with pytest.raises(CheckpointError, match=r"has a place for low-rank changes only: merge it"):
        convert_adapter(folders[kind], tmp_path / "a.gguf")
    with pytest.raises(CheckpointError, match=r"^lora: .*: merge it"):
        our_logits(gguf, folders[kind])
    assert not (tmp_path / "a.gguf").exists()


def stored(path: Path) -> dict[str, NDArray[np.float32]]:
    data = path.read_bytes()
    return {
        t.name: np.frombuffer(data[t.offset : t.offset + t.nbytes], np.float32).reshape(
            t.shape[::-1]
        )
        for t in read_gguf_header(path).tensors
    }


def merged_by_peft(base: Path, folder: Path, work: Path, *folders: Path) -> dict[str, Any]:
    model = peft_model(base, folder, *folders)
    saved = work / "saved"
    model.save_pretrained(saved)
    for name in ("tokenizer.model", "tokenizer_config.json", "added_tokens.json"):
        (saved / name).write_bytes((base / name).read_bytes())
    convert(saved, work / "saved.gguf", "F32", force=True)
    return stored(work / "saved.gguf")


@pytest.mark.parametrize("kind", KINDS)
def test_merged_weights_are_those_of_peft(
    base: Path, folders: dict[str, Path], kind: str, tmp_path: Path
) -> None:
    ours = tmp_path / "ours.gguf"
    convert(base, ours, "F32", merge=[(folders[kind], 1.0)])
    wanted = merged_by_peft(base, folders[kind], tmp_path)
    found = stored(ours)
    assert found.keys() == wanted.keys()
    for name, values in wanted.items():
        assert np.abs(found[name] - values).max() < 1e-5, name
    assert_alike(our_logits(ours), adapted_logits(base, folders[kind]))


@pytest.mark.parametrize(
    "kinds", [("all linear", "rslora"), ("dora", "dora"), ("dora", "attention")]
)
def test_several_adapters_are_merged_one_after_the_other(
    base: Path, folders: dict[str, Path], kinds: Sequence[str], tmp_path: Path
) -> None:
    peft = peft_library()

    first = folders[kinds[0]]
    settings = {**KINDS[kinds[1]].settings}
    second = make_adapter(base, tmp_path / "second", seed=2, **settings)
    model = peft.PeftModel.from_pretrained(in_float32(base), first, adapter_name="one")
    model.load_adapter(second, adapter_name="two")
    model.base_model.set_adapter(["one", "two"])
    wanted = torch_logits(model.merge_and_unload(adapter_names=["one", "two"]).eval())
    ours = tmp_path / "ours.gguf"
    convert(base, ours, "F32", merge=[(first, 1.0), (second, 1.0)])
    assert_alike(our_logits(ours), wanted)


@pytest.mark.parametrize("kind", ["all linear", "dora", "embeddings"])
def test_a_scale_is_that_of_peft(
    base: Path, folders: dict[str, Path], kind: str, tmp_path: Path
) -> None:
    peft = peft_library()

    model = peft.PeftModel.from_pretrained(in_float32(base), folders[kind])
    for module in model.modules():
        if isinstance(module, peft.tuners.lora.LoraLayer):
            module.set_scale("default", 0.5)
    wanted = torch_logits(model.merge_and_unload().eval())
    convert(base, tmp_path / "ours.gguf", "F32", merge=[(folders[kind], 0.5)])
    assert_alike(our_logits(tmp_path / "ours.gguf"), wanted)


@pytest.mark.parametrize("kind", ["all linear", "dora", "tokens"])
def test_a_checkpoint_in_bf16_is_rounded_once(
    folders: dict[str, Path], kind: str, tmp_path: Path
) -> None:
    """peft rounds what it adds and the sum; here the sum is rounded: at most one step of bf16 apart."""
    import torch

    peft = peft_library()
    from transformers import LlamaForCausalLM

    half = Checkpoint(**{**SHAPE.__dict__, "dtype": "BF16"})
    folder = without_sampling(write_checkpoint(tmp_path / "half", half))
    convert(folder, tmp_path / "ours.gguf", "BF16", merge=[(folders[kind], 1.0)])
    model = LlamaForCausalLM.from_pretrained(folder, dtype=torch.bfloat16)
    model = peft.PeftModel.from_pretrained(model, folders[kind]).merge_and_unload()
    model.save_pretrained(tmp_path / "saved")
    for name in ("tokenizer.model", "tokenizer_config.json", "added_tokens.json"):
        (tmp_path / "saved" / name).write_bytes((folder / name).read_bytes())
    convert(tmp_path / "saved", tmp_path / "theirs.gguf", "BF16")
    ours, theirs = (bf16(tmp_path / name) for name in ("ours.gguf", "theirs.gguf"))
    convert(folder, tmp_path / "base.gguf", "BF16")
    before = bf16(tmp_path / "base.gguf")
    changed = 0
    for name, values in theirs.items():
        step = np.maximum(np.maximum(np.abs(values), np.abs(before[name])), 0.05) * 2.0**-7
        assert (np.abs(ours[name] - values) <= 2 * step).all(), name
        changed += bool((values != before[name]).any())
    assert changed


def bf16(path: Path) -> dict[str, NDArray[np.float32]]:
    data = path.read_bytes()
    found = {}
    for t in read_gguf_header(path).tensors:
        raw = data[t.offset : t.offset + t.nbytes]
        if t.type_name == "BF16":
            found[t.name] = (np.frombuffer(raw, np.uint16).astype(np.uint32) << 16).view(np.float32)
        else:
            found[t.name] = np.frombuffer(raw, np.float32)
    return found


REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "pissa": ({"init_lora_weights": "pissa"}, "init_lora_weights is 'pissa'.*merge_and_unload"),
    "olora": ({"init_lora_weights": "olora"}, "init_lora_weights is 'olora'"),
    "lora_bias": ({"lora_bias": True}, "has a bias, .*lora_B.bias, .* train it without"),
}


@pytest.mark.parametrize("kind", REFUSED)
def test_what_the_adapter_alone_does_not_hold(base: Path, kind: str, tmp_path: Path) -> None:
    settings, message = REFUSED[kind]
    folder = make_adapter(base, tmp_path / kind, target_modules=SOME, **settings)
    with pytest.raises(CheckpointError, match=message):
        convert_adapter(folder, tmp_path / "a.gguf")
    with pytest.raises(CheckpointError, match=message):
        convert(base, tmp_path / "m.gguf", "F32", merge=[(folder, 1.0)])


def test_pissa_saved_as_peft_advises_is_an_ordinary_adapter(
    base: Path, gguf: Path, tmp_path: Path
) -> None:
    """The remedy of its refusal works."""
    import torch

    peft = peft_library()

    config = peft.LoraConfig(
        r=4, lora_alpha=16, task_type="CAUSAL_LM", target_modules=SOME, init_lora_weights="pissa"
    )
    model = peft.get_peft_model(in_float32(base), config)
    model.peft_config["default"].init_lora_weights = True
    model.save_pretrained(tmp_path / "start")
    model.peft_config["default"].init_lora_weights = "pissa"
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter += torch.randn_like(parameter) * 0.1
    wanted = torch_logits(model.eval())
    start = tmp_path / "start"
    model.save_pretrained(tmp_path / "a", path_initial_model_for_weight_conversion=start)
    assert_alike(our_logits(gguf, tmp_path / "a"), wanted)


def test_a_changed_vocabulary_is_refused_with_the_remedy(base: Path, tmp_path: Path) -> None:
    peft = peft_library()

    model = in_float32(base)
    model.resize_token_embeddings(model.config.vocab_size + 2, mean_resizing=False)
    settings = {"target_modules": SOME, "modules_to_save": ["embed_tokens", "lm_head"]}
    peft.get_peft_model(model, peft.LoraConfig(r=4, **settings)).save_pretrained(tmp_path / "a")
    with pytest.raises(CheckpointError, match="its vocabulary was changed: merge the adapter and"):
        convert(base, tmp_path / "m.gguf", "F32", merge=[(tmp_path / "a", 1.0)])


def test_weights_in_a_pickle_act_alike(
    base: Path, gguf: Path, folders: dict[str, Path], tmp_path: Path
) -> None:
    import torch
    from safetensors.torch import load_file

    folder = tmp_path / "a"
    folder.mkdir()
    good = folders["all linear"]
    torch.save(load_file(good / "adapter_model.safetensors"), folder / "adapter_model.bin")
    (folder / "adapter_config.json").write_bytes((good / "adapter_config.json").read_bytes())
    assert np.array_equal(our_logits(gguf, folder), our_logits(gguf, good))


def test_the_settings_that_are_known_are_those_of_peft(
    base: Path, folders: dict[str, Path]
) -> None:
    """A setting that a newer peft adds is refused when it is set; none of today's is by default."""
    for folder in folders.values():
        read_adapter(folder)
    written = json.loads((folders["attention"] / "adapter_config.json").read_text())
    assert {"use_dora", "lora_bias", "trainable_token_indices", "alora_invocation_tokens"} <= {
        *written
    }
