# Copyright (C) 2026 the anomalib-grad authors
# SPDX-License-Identifier: Apache-2.0
"""Export of models that recognise the product category, to files that anomalib's own inferencers read unchanged.

anomalib's inferencers accept only the four outputs of its InferenceBatch. The recognised category is therefore a named
tensor INSIDE the exported graph, ``category``, and the category names are in the file's metadata.
:class:`anomalib_grad.deploy.CategoryOpenVINOInferencer` reads that tensor.
"""

import json
import logging
from ast import literal_eval
from collections import namedtuple
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from functools import partial
from inspect import signature
from pathlib import Path
from threading import RLock
from typing import TYPE_CHECKING, Any, NamedTuple, cast

import torch
from anomalib.data import AnomalibDataModule
from anomalib.deploy.export import CompressionType, ExportType
from anomalib.models.components.base.export_mixin import ExportMixin
from lightning import LightningModule
from torch import Tensor, nn
from torchmetrics import Metric

from anomalib_grad.backbone.frozen import check_size
from anomalib_grad.data.resizing import resized_to
from anomalib_grad.files.atomic import explain_temporary_folder_errors, explain_write_errors, folder_beside, make_folder
from anomalib_grad.files.termination import cleaning_up_at_sigterm
from anomalib_grad.thresholds.category_thresholds import missing_thresholds
from anomalib_grad.thresholds.model_thresholds import ModelThresholds
from anomalib_grad.thresholds.post_processor import PerCategoryPostProcessor, judge, per_category_or_none
from anomalib_grad.torch_model import GradModel
from anomalib_grad.training.unusable_weights import NEVER_TRAINED

from .checksum import seal
from .quiet import only_warnings
from .threshold_files import CATEGORIES_METADATA, TABLE, THRESHOLDS_METADATA, keep_exact

if TYPE_CHECKING:  # both are heavy, and importing anomalib imports this file
    import onnx
    import openvino as ov

logger = logging.getLogger(__name__)

CATEGORY = "category"
RAW = ("raw_score", "raw_map")
"""Names of the tensors with raw scores and maps, in the unit of the thresholds."""
SIZE_METADATA = "anomalib_grad_image_size"
BEFORE_EXPORT = (
    "run engine.validate(model, datamodule=...) on data with validation images before the export, or fit them in the "
    "exported file (python -m anomalib_grad.thresholds fit)."
)
EXPORT_LOCK = RLock()
"""Lock of an export: the exporter patches how modules are called in the whole process, and changes the model."""
OPSET_VERSION = 18  # the exporter's own; a lower one needs a conversion, which fails


class ExplainedInferenceBatch(NamedTuple):
    """anomalib's InferenceBatch and the category name of each image, in anomalib's free-text field."""

    pred_score: Tensor
    pred_label: Tensor | None
    anomaly_map: Tensor
    pred_mask: Tensor | None
    explanation: list[str]


class ExportedGraph(LightningModule):
    """Module to export: a model's parts under their names; returns each image's category as an index."""

    def __init__(self, model: "CategoryExportMixin") -> None:
        super().__init__()
        self.pre_processor, self.post_processor = model.pre_processor, model.post_processor
        self.model = cast("GradModel", model.model)

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        """Predict on images of any size.

        Returns:
            A named tuple of what is known: anomalib's four outputs, and with its own post-processor what they were
            computed from (:data:`RAW`) and the index of each image's category. Of a field without a value the exporter
            would warn.
        """
        prediction, scored = judge(self.pre_processor, self.model, self.post_processor, images)
        fields = prediction._asdict()
        if isinstance(self.post_processor, PerCategoryPostProcessor):
            raw = (scored.raw.pred_score, scored.raw.anomaly_map)
            fields |= dict(zip(RAW, raw, strict=True)) | {CATEGORY: scored.category}
        known = {name: value for name, value in fields.items() if value is not None}
        return namedtuple("ExportedBatch", known)(**known)  # which fields there are is known by now alone


class CategoryExportMixin(ExportMixin):
    """Adds the category to anomalib's exports, as a tensor inside the graph.

    A file gets its final name only once it is complete. A model on another device or in another precision is exported
    on the CPU in float32, and restored afterwards.
    """

    pre_processor: nn.Module | None
    post_processor: nn.Module | None

    def to_torch(self, export_root: Path | str, model_file_name: str = "model") -> Path:
        """Export to a torch file; arguments and return value are anomalib's."""
        self._check()
        with EXPORT_LOCK, on_cpu_in_float32(self):  # type: ignore[arg-type]  # mixed into a module
            return self._publish(
                partial(super().to_torch, model_file_name=model_file_name), export_root, ExportType.TORCH
            )

    def to_onnx(
        self,
        export_root: Path | str,
        model_file_name: str = "model",
        input_size: tuple[int, int] | None = None,
        **kwargs: Any,  # noqa: ANN401  # anomalib's arguments for torch.onnx.export
    ) -> Path:
        """Export to one ONNX file; arguments and return value are anomalib's.

        Above ONNX's limit of 2 GB per file, ``external_data=True`` is needed, which puts the weights in a second file.

        Raises:
            ValueError: If ``input_size`` is not two whole numbers of at least 1.
        """
        if input_size is not None:
            check_size(input_size, 1, "input_size must be height and width in whole pixels of at least 1;")
        self._check()
        logger.info("Exporting the model, which may take a minute.")
        kwargs = {"opset_version": OPSET_VERSION, "external_data": False, "verbose": False} | kwargs

        def export(root: Path) -> Path:
            with only_warnings("onnx_ir", "onnxscript"):
                path = ExportMixin.to_onnx(ExportedGraph(self), root, model_file_name, input_size, **kwargs)  # type: ignore[arg-type]  # mixed into a module
            size = resized_to(getattr(self.pre_processor, "transform", None))
            finish_onnx(path, list(getattr(self.post_processor, "categories", [])), size, self.post_processor)
            seal(path)
            return path

        # The graph must contain thresholds and ranges as a named constant, if there are any.
        holding_table = getattr(self.post_processor, "holding_table", nullcontext)
        with EXPORT_LOCK, on_cpu_in_float32(self), plain_activations(self), holding_table():  # type: ignore[arg-type]  # mixed into a module
            return self._publish(export, export_root, ExportType.ONNX)

    def to_openvino(self, export_root: Path | str, *args: Any, **kwargs: Any) -> Path:  # noqa: ANN401  # anomalib's
        """Export to OpenVINO, compressed on request; arguments and return value are anomalib's."""

        def export(root: Path) -> Path:
            with explain_temporary_folder_errors():  # anomalib exports to ONNX there first
                path = ExportMixin.to_openvino(self, root, *args, **kwargs)
            seal(path)
            if isinstance(self.post_processor, PerCategoryPostProcessor):
                keep_exact(path, self.post_processor)
            return path

        given = signature(ExportMixin.to_openvino).bind(self, export_root, *args, **kwargs).arguments
        self._check_compression(given.get("compression_type"), given.get("datamodule"))
        return self._publish(export, export_root, ExportType.OPENVINO)

    @staticmethod
    def _check_compression(kind: CompressionType | None, datamodule: AnomalibDataModule | None) -> None:
        """Refuse a compression that lacks its images, before an export that takes a minute."""
        if kind in {CompressionType.INT8_PTQ, CompressionType.INT8_ACQ}:
            from . import quantization  # noqa: PLC0415  # imports NNCF, which starts its telemetry

            quantization.images_of(datamodule)

    def _check(self) -> None:
        """Refuse a category that the model does not know, which would fail at inference.

        Warn if the model is untrained or lacks thresholds; it may be exported only to measure its speed.
        """
        own = per_category_or_none(self.post_processor)
        if own is not None and own.category is not None:
            own.named_index(own.category)
        lack = missing_thresholds(self.post_processor)
        if cast("GradModel", self.model).head.is_as_drawn():
            logger.warning(NEVER_TRAINED)
        elif lack is not None:
            logger.warning("the exported model has %s: %s", lack, BEFORE_EXPORT)

    def _publish(self, export: Callable[[Path], Path], export_root: Path | str, export_type: ExportType) -> Path:
        """Export with :func:`publish`; the size of the weights in memory estimates that of the file."""
        weights: Any = [*self.parameters(), *self.buffers()]  # type: ignore[attr-defined]  # mixed into a module
        return publish(export, export_root, export_type, sum(tensor.nbytes for tensor in weights))

    def _compress_ov_model(
        self,
        model: "ov.Model",
        compression_type: CompressionType | None = None,
        datamodule: AnomalibDataModule | None = None,
        metric: Metric | None = None,
        task: object = None,
        max_drop: float = 0.01,
    ) -> "ov.Model":
        """Compress with NNCF, replacing anomalib's method, which cannot read anomalib's own batches."""
        from . import quantization  # noqa: PLC0415  # imports NNCF, which starts its telemetry

        match compression_type:
            case CompressionType.INT8:
                return quantization.compress_weights(model)
            case CompressionType.INT8_PTQ:
                return quantization.quantize(model, datamodule)
            case CompressionType.INT8_ACQ:
                return quantization.quantize_with_accuracy_control(model, datamodule, metric, max_drop)
        kinds = [kind.value for kind in CompressionType]
        raise ValueError(f"compression_type must be one of {kinds}, got {compression_type!r}.")


@contextmanager
def on_cpu_in_float32(model: nn.Module) -> Iterator[None]:
    """Move a model to the CPU in float32 inside the block, and restore its original tensors afterwards."""
    parameters = [(parameter, parameter.data) for parameter in model.parameters()]
    buffers = [(module, dict(module._buffers)) for module in model.modules()]
    device = getattr(model, "device", None)
    try:
        nn.Module.float(model.cpu())  # not Lightning's, which would record float32 permanently
        yield
    finally:
        for parameter, data in parameters:
            parameter.data = data
        for module, own in buffers:
            module._buffers.update(own)
        if device is not None:
            model.to(device)  # moves only metric states, and resets Lightning's device record


@contextmanager
def plain_activations(model: nn.Module) -> Iterator[None]:
    """Make activations out-of-place and ReLU6 a clamp inside the block: the same values in operations that export fast.

    The exporter decomposes others, for each of dozens of activations: a third of the export time of a MobileNet.
    """
    changing = [module for module in model.modules() if getattr(module, "inplace", False) is True]
    bounded = [module for module in model.modules() if type(module) is nn.ReLU6]
    try:
        for module in changing:
            vars(module)["inplace"] = False
        for module in bounded:
            vars(module)["forward"] = partial(torch.clamp, min=module.min_val, max=module.max_val)
        yield
    finally:
        for module in bounded:
            del vars(module)["forward"]
        for module in changing:
            vars(module)["inplace"] = True


def publish(export: Callable[[Path], Path], export_root: Path | str, export_type: ExportType, size: int = 0) -> Path:
    """Export into a temporary folder, then move the files, so that no half-written model has the final name.

    Args:
        export: anomalib's export; takes the root folder, returns the path of the model.
        export_root: anomalib's root folder of exports.
        export_type: Kind of export, which names the folder below the root.
        size: Approximate size of the model in bytes: not every library reports a full disk.

    Returns:
        Final path of the model.

    Raises:
        CannotWriteError: If the folder is not writable, or the disk is full; an older export is then unchanged.
    """
    folder = Path(export_root) / "weights" / export_type.value  # anomalib's convention
    make_folder(folder)
    with explain_write_errors(folder, size), cleaning_up_at_sigterm(), folder_beside(folder / "export") as temporary:
        model = export(Path(temporary))
        final = folder / model.name
        weights = [path for path in model.parent.iterdir() if path != model]
        if weights:
            final.unlink(missing_ok=True)  # never an old model beside new weights
        for path in (*weights, model):
            path.replace(folder / path.name)
    return final


def finish_onnx(
    path: Path,
    categories: list[str],
    image_size: tuple[int, int] | None = None,
    post_processor: nn.Module | None = None,
) -> None:
    """Finish an exported ONNX file, in place.

    - ``category`` and the raw tensors stay in the graph, but are no longer outputs.
    - Category names, image size and threshold records are written to the metadata. The table of thresholds is moved
      into the file itself, where it can be replaced.
    - Each node is named after its module, by which quantisation selects nodes. The exporter's stack traces, which are
      most of the metadata and full of local paths, are removed.
    - The format version is the oldest with these operators, as runtimes refuse any newer version than their own.

    Args:
        path: ONNX file.
        categories: Category names in the order of their indices.
        image_size: Height and width to which the model first resizes images, antialiased; ``None`` if it does not.
        post_processor: Source of the threshold records; ``None`` if there is none.
    """
    import onnx  # noqa: PLC0415  # heavy

    model = onnx.load(path, load_external_data=False)
    if not any(output.name == CATEGORY for output in model.graph.output):
        categories = []  # trained on categories without learning to recognise them: one threshold for all
    for output in [output for output in model.graph.output if output.name in {CATEGORY, *RAW}]:
        model.graph.output.remove(output)
    for constant in model.graph.initializer:
        if constant.name == TABLE and onnx.external_data_helper.uses_external_data(constant):
            onnx.external_data_helper.load_external_data_for_tensor(constant, str(path.parent))
            constant.data_location = onnx.TensorProto.DEFAULT
            del constant.external_data[:]
    for node in model.graph.node:
        node.name = f"{module_of(node)}/{node.name}"
        del node.metadata_props[:]
    metadata: dict[str, Any] = {CATEGORIES_METADATA: categories}
    if image_size is not None:
        metadata[SIZE_METADATA] = image_size
    if isinstance(post_processor, PerCategoryPostProcessor):
        metadata[THRESHOLDS_METADATA] = ModelThresholds.of(post_processor, categories).to_plain()
    model.ir_version = min(model.ir_version, onnx.helper.find_min_ir_version_for(model.opset_import))
    onnx.helper.set_model_props(model, {key: json.dumps(value) for key, value in metadata.items()})
    onnx.save(model, path)


def module_of(node: "onnx.NodeProto") -> str:
    """Return the qualified name of the torch module that a node was exported from, empty if none is recorded."""
    noted = {entry.key: entry.value for entry in node.metadata_props}
    scopes = literal_eval(noted.get("pkg.torch.onnx.name_scopes", "[]"))  # modules from the outermost, then the node
    return scopes[-2] if len(scopes) > 1 else ""
