# Copyright (C) 2026 the anomalib-grad authors
# SPDX-License-Identifier: Apache-2.0
"""Checkpoints that are whole on the disk, and looked at before they are read, by Lightning's trainer."""

from io import BytesIO
from pathlib import Path
from typing import Any

import torch
from anomalib.engine.plugins.checkpoint_io import AnomalibCheckpointIO

from .atomic import make_folder, writing
from .checkpoint_reading import local_path, reading


class WholeCheckpointIO(AnomalibCheckpointIO):
    """anomalib's reading and writing of checkpoints; one on a local disk appears complete or not at all.

    Lightning writes to the system's temporary folder first. Where that is another file system than that of the results
    the checkpoint is then copied under its final name, and a kill or a full disk leaves half of it in place of the last
    whole one.
    """

    def save_checkpoint(self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any = None) -> None:  # noqa: ANN401  # Lightning's
        """Write a checkpoint; arguments are Lightning's.

        Raises:
            OSError: If the folder cannot be written to, or is full; an older checkpoint is unchanged then.
        """
        target = local_path(path)
        if target is None or storage_options is not None:
            super().save_checkpoint(checkpoint, path, storage_options)
            return
        content = BytesIO()  # torch's own writing to a full disk does not say what is wrong
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
        """Read a checkpoint; arguments are Lightning's.

        An explicit ``weights_only=False`` says that the file is trusted: then whatever it holds is loaded, and run.

        Raises:
            CheckpointFileError: If the file is damaged or must not be used.
        """
        if weights_only is False:
            return super().load_checkpoint(path, map_location, weights_only=False)
        with reading(path, self.extra_safe_globals) as file:
            return super().load_checkpoint(file, map_location, weights_only=True)
