# Copyright (C) 2026 the anomalib-grad authors
# SPDX-License-Identifier: Apache-2.0
"""Lightning checkpoint plugin: checks checkpoints before loading them, and writes them whole or not at all."""

from io import BytesIO
from pathlib import Path
from typing import Any

import torch
from anomalib.engine.plugins.checkpoint_io import AnomalibCheckpointIO

from .atomic import make_folder, writing
from .checkpoint_reading import checked_checkpoint, local_path


class WholeCheckpointIO(AnomalibCheckpointIO):
    """anomalib's checkpoint plugin with checks before loading and atomic writes to local disks.

    Lightning writes to the system's temporary folder first. If the results lie on another file system, it then copies
    the checkpoint to its final name. A kill or a full disk during that copy would replace the last whole checkpoint by
    half a file.
    """

    def save_checkpoint(self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any = None) -> None:  # noqa: ANN401  # Lightning's
        """Write a checkpoint; arguments are Lightning's.

        Raises:
            OSError: If the folder cannot be written to, or is full. An older checkpoint is then unchanged.
        """
        target = local_path(path)
        if target is None or storage_options is not None:
            super().save_checkpoint(checkpoint, path, storage_options)
            return
        content = BytesIO()  # torch's own error on a full disk does not say what is wrong
        torch.save(checkpoint, content)
        make_folder(target.parent)
        with writing(target) as unfinished:
            unfinished.write_bytes(content.getbuffer())

    def load_checkpoint(
        self,
        path: str | Path,
        map_location: Any = None,  # noqa: ANN401  # Lightning's
        weights_only: bool | None = True,
    ) -> dict[str, Any]:
        """Load a checkpoint; arguments are Lightning's.

        An explicit ``weights_only=False`` means that the file is trusted: everything in it is loaded, and its code
        runs.

        Raises:
            CheckpointFileError: If the file is damaged or must not be used.
        """
        if weights_only is False:
            return super().load_checkpoint(path, map_location, weights_only=False)
        with checked_checkpoint(path, self.extra_safe_globals) as file:
            return super().load_checkpoint(file, map_location, weights_only=True)
