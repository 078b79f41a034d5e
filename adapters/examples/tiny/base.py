"""Train a tiny model from nothing, as the base of the example: python base.py FOLDER."""

import shutil
import sys
from pathlib import Path

import torch
from p2fit_adapters import PostTraining, TextSource, Training, post_train
from p2fit_adapters.progress import Lines
from transformers import LlamaConfig, LlamaForCausalLM
from transformers.utils import logging

logging.disable_progress_bar()
folder = Path(sys.argv[1])
torch.manual_seed(0)
config = LlamaConfig(
    vocab_size=512,
    hidden_size=32,
    intermediate_size=96,
    num_hidden_layers=4,
    num_attention_heads=4,
    max_position_embeddings=128,
    tie_word_embeddings=True,
)
LlamaForCausalLM(config).save_pretrained(folder / "fresh")
run = PostTraining(  # the control of a sweep, with a learning rate that falls to 0 in the end
    str(folder / "fresh"),
    TextSource("corpus", seq_len=64, eval_tokens=20_000),
    training=Training(
        tokens=1_000_000, evals=2, batch_tokens=2048, batch_size=32, lr=6e-3, decay=0.4
    ),
    save_model=True,
)
result = post_train(run, folder / "base", Lines())
shutil.copytree(folder / "base" / result.run / "model", folder / "tiny-llama", dirs_exist_ok=True)
