"""Errors of making and scoring models; each class has one stable exit code."""

from __future__ import annotations

from agent.wire import BenchError


class ModelsError(BenchError):
    """Anything that goes wrong under models/."""

    exit_code = 20


class ModelNotFound(ModelsError):
    """No such model name or file."""

    exit_code = 21


class ModelUnreadable(ModelsError):
    """The model file is corrupt or of an unsupported kind."""

    exit_code = 22


class BuildFailed(ModelsError):
    """A step of a recipe failed; the message names model, recipe and step."""

    exit_code = 23


class NothingQuantized(BuildFailed):
    """A quantization step left the model as it was."""

    exit_code = 24


class DataError(ModelsError):
    """A data set is missing, of an unknown layout, or contradicts itself."""

    exit_code = 25


class ExtraMissing(ModelsError):
    """The step needs packages of the extra `models`; the message has the command."""

    exit_code = 26


class RecipeError(ModelsError):
    """Unknown recipe or step, or a bad parameter."""

    exit_code = 27


class ShapeNeeded(ModelsError):
    """An input has dynamic dimensions and no usable shape was given; the message has the option."""

    exit_code = 64


class ArtifactLost(ModelsError):
    """A built artifact is gone or no longer has the bytes that its name promises."""

    exit_code = 65


class BuilderLost(ModelsError):
    """A builder did not start, went away, or said what no builder says."""

    exit_code = 68


class BuilderUnfit(ModelsError):
    """A builder lacks packages or data that the build needs."""

    exit_code = 69
