"""What a config says of a backbone: a name of torchvision, timm or a plug-in, and its arguments."""

import inspect
import sys
from collections.abc import Callable, Mapping
from contextlib import suppress
from importlib import import_module
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any, NamedTuple, TypeAlias, TypeGuard

import torch
import torchvision
from torch import nn

from vpns_lightning.base.errors import UserError, nearest
from vpns_lightning.base.trust import is_plugin, plugin_modules

if TYPE_CHECKING:
    Backbone: TypeAlias = "str | Mapping[str, Any] | nn.Module"
else:  # what a config can say: a parser would list every module of torch in its help
    Backbone = str | dict[str, Any]

TIMM = "timm/"
TORCHVISION = "torchvision.models."
KEYS = ("class_path", "init_args")
# arguments that say twice how many classes there are, or read weights past all checks
NOT_ARGUMENTS = (
    "num_classes",
    *("weights", "weights_backbone", "pretrained", "pretrained_cfg", "pretrained_cfg_overlay"),
    *("checkpoint_path", "cache_dir", "progress"),
)


class Specification(NamedTuple):
    """Which backbone, made how.

    Attributes:
        name: Of torchvision's classifiers (``resnet18``), of timm's (``timm/resnet18``), or of a
            class or function that returns a module (``nets.ResNet20``).
        arguments: Its keyword arguments, without the number of classes unless it is given.
    """

    name: str
    arguments: Mapping[str, Any]

    def __str__(self) -> str:
        if not self.arguments:
            return self.name
        arguments = ", ".join(f"{key}={value!r}" for key, value in sorted(self.arguments.items()))
        return f"{self.name}({arguments})"

    def plain(self) -> str | dict[str, Any]:
        """Return what a config says of it: a name alone, or with arguments."""
        if not self.arguments:
            return self.name
        return {"class_path": self.name, "init_args": dict(self.arguments)}

    @property
    def of_torchvision(self) -> bool:
        """Whether it is a classifier of torchvision."""
        return self.name in classifier_names()

    @property
    def of_library(self) -> bool:
        """Whether it is of torchvision or timm, whose networks take any number of classes."""
        return self.of_torchvision or is_timm(self.name)

    def construct(self, num_classes: int) -> nn.Module:
        """Build it with random weights.

        Args:
            num_classes: Outputs of the head, unless the arguments say it or it takes no such thing.

        Raises:
            UserError: The name is unknown, or it refuses its arguments.
        """
        make, takes_classes = self._maker()
        arguments = dict(self.arguments)
        if takes_classes:
            arguments.setdefault("num_classes", num_classes)
        if self.name in {"googlenet", "inception_v3"}:
            arguments.setdefault("init_weights", True)
        try:
            made = make(**arguments)
        except NotImplementedError:
            raise  # what the meta device says of operations that need values
        except (TypeError, ValueError, AssertionError, LookupError, RuntimeError) as error:
            reason = (str(error).strip() or type(error).__name__).splitlines()[0]
            raise UserError(
                f"network.backbone {self.name} refuses its init_args: {reason}"
            ) from None
        if not isinstance(made, nn.Module):
            raise UserError(
                f"network.backbone {self.name} returns a {type(made).__name__}, not a torch module "
                "that maps images (N, 3, S, S) to logits"
            )
        return made

    def skeleton(self, num_classes: int) -> nn.Module:
        """Return it with tensors that have shapes, but mostly no storage.

        Raises:
            UserError: See :meth:`construct`.
        """
        try:
            with torch.device("meta"):
                return self.construct(num_classes)
        except (NotImplementedError, UserError):  # it computes on its weights while it is built
            with torch.random.fork_rng(devices=[]):
                return self.construct(num_classes)

    def _maker(self) -> tuple[Callable[..., object], bool]:
        """Return what builds it, and whether that takes the number of classes."""
        if is_timm(self.name):
            return _timm_maker(self.name), True
        if self.of_torchvision:
            return lambda **options: torchvision.models.get_model(self.name, **options), True
        maker = _plugin_maker(self.name)
        parameters = inspect.signature(maker).parameters.values()
        by_name = any(p.name == "num_classes" for p in parameters)
        return maker, by_name or any(p.kind is p.VAR_KEYWORD for p in parameters)


def classifier_names() -> list[str]:
    """Return the names of torchvision's image classifiers."""
    names: list[str] = torchvision.models.list_models(module=torchvision.models)
    return names


def is_timm(name: str) -> bool:
    """Return whether a backbone's name is one of timm."""
    return name.startswith(TIMM)


def specify(backbone: str | Mapping[str, Any]) -> Specification:
    """Return what a config's value says.

    Args:
        backbone: A name, or ``{class_path: name, init_args: {...}}``.

    Raises:
        UserError: It is neither, or an argument is not the backbone's business.
    """
    given: Mapping[str, Any] = (
        {"class_path": backbone} if isinstance(backbone, str) else dict(backbone)
    )
    name, nested = given.get("class_path"), given.get("init_args") or {}
    # --network.backbone.init_args.width 2 reaches here without its init_args
    beside = {key: value for key, value in given.items() if key not in KEYS}
    if not isinstance(name, str) or not name or not isinstance(nested, Mapping):
        raise UserError(
            "network.backbone is a name, or class_path with a name and init_args with its "
            f"arguments, got {backbone!r}"
        )
    arguments = {**nested, **beside}
    shown = name.removeprefix(TORCHVISION)
    if shown in classifier_names():
        name = shown
    specification = Specification(name, arguments)
    for argument in arguments if specification.of_library else ():
        if argument in NOT_ARGUMENTS:
            raise UserError(
                f"network.backbone.init_args.{argument} is set elsewhere: the weights to start "
                "from by network.weights, the classes of a random head by network.source_classes"
            )
    return specification


def timm_package() -> Any:  # timm has no type hints
    """Return timm.

    Raises:
        UserError: It is not installed.
    """
    if find_spec("timm") is None:
        raise UserError('timm is not installed: pip install "vpns-lightning[timm]"')
    import timm  # heavy, and only its own backbones need it

    return timm


def _timm_maker(name: str) -> Callable[..., object]:
    timm = timm_package()
    model, _, tag = name.removeprefix(TIMM).partition(".")
    if tag:
        raise UserError(
            f"network.backbone {name!r} names weights too: write {TIMM}{model}, and the tag as "
            f"network.weights: {tag}"
        )
    if model not in timm.list_models():
        raise UserError(
            f"network.backbone {name!r} is no classifier of timm"
            f"{nearest(model, timm.list_models())}; see timm.list_models()"
        )
    return lambda **options: timm.create_model(model, **options)


def _plugin_maker(name: str) -> Callable[..., object]:
    """Return a class or function that the user's own code defines."""
    module_name, _, attribute = name.rpartition(".")
    if not module_name:
        found = [getattr(module, name) for module in plugin_modules() if hasattr(module, name)]
        makers = [each for each in found if _is_maker(each)]
        if not makers:
            raise UserError(_unknown(name))
        return makers[0]
    package = module_name.partition(".")[0]
    if is_plugin(package):
        with suppress(ModuleNotFoundError):
            import_module(module_name)
    maker: Any = getattr(sys.modules.get(module_name), attribute, None)
    # no function of a package that is only there by chance: os.system is one
    own = is_plugin(package) or (inspect.isclass(maker) and issubclass(maker, nn.Module))
    if not own:
        raise UserError(
            f"network.backbone {name!r} is not of code that you named: add --plugins {package} (or "
            f"{package}.py), in Python vpns_lightning.base.trust.trust({package!r})"
        )
    if not _is_maker(maker):
        names = [n for n, v in vars(sys.modules.get(module_name, sys)).items() if _is_maker(v)]
        raise UserError(
            f"network.backbone {name!r}: {module_name} has no class or function {attribute!r}"
            f"{nearest(attribute, names)}"
        )
    return maker


def _is_maker(candidate: object) -> TypeGuard[Callable[..., object]]:
    if inspect.isclass(candidate):
        return issubclass(candidate, nn.Module)
    return inspect.isfunction(candidate)


def _unknown(name: str) -> str:
    makers = [n for m in plugin_modules() for n, v in vars(m).items() if _is_maker(v)]
    return (
        f"backbone {name!r} is no torchvision classifier"
        f"{nearest(name, [*classifier_names(), *makers])}; see torchvision.models.list_models(), "
        f"or write {TIMM}<name> for one of timm, or the name of a class or function of --plugins"
    )
