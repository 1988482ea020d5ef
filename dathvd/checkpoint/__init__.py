"""Checkpoints: atomic, complete, and loadable without executing code.

A checkpoint is a folder ``checkpoints/step-00001234``: ``model.pt`` with what all ranks
share, and ``rank-00000.pt`` … with what differs by rank. It is written under
a temporary name and renamed when every rank has finished its file. The files of one
checkpoint name the same state, by which a host sees that they belong together.
"""

from __future__ import annotations

from dathvd.checkpoint.files import (
    DEALT,
    FORMAT,
    STATE_ID,
    Unreadable,
    copied,
    load_bytes,
    load_file,
    load_networks,
    load_whole,
    map_tensors,
    save_file,
)
from dathvd.checkpoint.folders import (
    Which,
    aside,
    checkpoint_folder,
    discard_after,
    discard_staging,
    find_checkpoints,
    is_checkpoint,
    publish,
    resolve,
    set_aside,
    staging_folder,
    step_of,
    tidy,
    write_rank_files,
)
from dathvd.checkpoint.networks import (
    Trust,
    Weights,
    average_updates,
    load_model,
    load_weights,
    require_trust,
    restore_model,
    stored_config,
    stored_weights,
)

__all__ = [
    "DEALT",
    "FORMAT",
    "Trust",
    "Unreadable",
    "STATE_ID",
    "Weights",
    "average_updates",
    "Which",
    "aside",
    "checkpoint_folder",
    "copied",
    "discard_after",
    "discard_staging",
    "find_checkpoints",
    "is_checkpoint",
    "load_bytes",
    "load_file",
    "load_model",
    "load_networks",
    "load_weights",
    "load_whole",
    "map_tensors",
    "publish",
    "require_trust",
    "resolve",
    "restore_model",
    "save_file",
    "set_aside",
    "staging_folder",
    "step_of",
    "stored_config",
    "stored_weights",
    "tidy",
    "write_rank_files",
]
