"""What adapters add to a Trainer class: a layer between upstream's Trainer and compression."""

import logging
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from nncf_transformers.checkpoint import check_resumable
from nncf_transformers.compression import Compression, compression_parameters
from nncf_transformers.data import dataset_name
from nncf_transformers.errors import UsageError

if TYPE_CHECKING:
    from transformers import Trainer as _Trainer

    from nncf_transformers.adapter.flags import AdapterPlan
else:
    _Trainer = object

logger = logging.getLogger(__name__)

# Of a model that was made on the fly, for which there is no other folder.
BASE_FOLDER = "base_model"


class AdapterMixin(_Trainer):
    """Trains, saves, resumes and evaluates an adapter where ``args.adapter_plan`` asks for one."""

    args: Any
    model: Any

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._plan: AdapterPlan | None = getattr(self.args, "adapter_plan", None)
        if self._plan is None:
            return
        if self.model_init is not None:
            raise UsageError("model_init makes a new model for each training, without its adapter; give a model")
        from nncf_transformers.adapter.model import install
        from nncf_transformers.adapter.saving import check_free

        install(self.model, self._plan, default_name=dataset_name(), trains=self.args.do_train)
        if self.args.do_train and self.args.nncf_config is None:
            check_free(Path(self.args.output_dir), self.model.adapters_config)
        if self._made_here() and self.args.do_train:
            logger.warning("the model has random weights, which stay as they are: only the adapter and the head learn")
        if self.place_model_on_device:
            self._move_model_to_device(self.model, self.args.device)

    def _adapter_only(self) -> bool:
        """Whether checkpoints hold the adapter alone: nothing else is trained, not even quantizers."""
        return self._plan is not None and not compression_parameters(self.model)

    def _freeze_compression(self) -> None:
        """Freeze the quantizers of a base that was compressed before; masks are no part of an adapter's training.

        Raises:
            UsageError: the base's training is not over.
        """
        compression = Compression.of(self.model)
        if self._plan is None or compression is None or self.args.nncf_config is not None:
            return
        if not compression.finished and any(not algorithm.lasting for algorithm in compression.algorithms):
            raise UsageError(
                f"--train_adapter: the compression of {self.model.config._name_or_path} is not over, so it would go on "
                "under the adapter; use the model of its end"
            )
        for parameter in compression_parameters(self.model):
            parameter.requires_grad_(False)

    def _made_here(self) -> bool:
        """Whether the model was made from a configuration, so that it is in no folder."""
        return not self.model.nncf_adapter_base.name

    def _save(self, output_dir: str | None = None, state_dict: Any = None) -> None:
        """As upstream, but the adapter and the head take the place of the model."""
        if not self._adapter_only():
            super()._save(output_dir, state_dict)
            return
        from nncf_transformers.adapter.saving import save, save_base

        folder = Path(output_dir or self.args.output_dir)
        save(self.model, folder)
        if self._made_here() and folder == Path(self.args.output_dir):
            save_base(self.model, folder / BASE_FOLDER)
        if self.processing_class is not None:
            self.processing_class.save_pretrained(folder)
        torch.save(self.args, folder / "training_args.bin")

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: Any = None) -> None:
        """As upstream; an adapter's checkpoint has no model in it."""
        if not self._adapter_only():
            super()._load_from_checkpoint(resume_from_checkpoint, model)
            return
        from nncf_transformers.adapter.saving import check_base, load_again

        check_resumable(resume_from_checkpoint, "--load_adapter")
        check_base(self.model, resume_from_checkpoint)
        load_again(self.model, resume_from_checkpoint)

    def _load_best_model(self) -> None:
        """As upstream; an adapter's checkpoint has no model in it."""
        best = self.state.best_model_checkpoint
        if not self._adapter_only() or best is None or not os.path.isdir(best):
            super()._load_best_model()
            return
        from nncf_transformers.adapter.saving import load_again

        logger.info("loading the best adapter, of %s (%s)", best, self.state.best_metric)
        load_again(self.model, best)
