"""LOSSES and build_loss: losses by name, from the config dictionaries of mmdet.

A small registry with the calls that mmdet configs and users' own losses need. It never imports or
evaluates a string: an unknown name is an error, not a module path.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any


class Registry:
    """Classes (or functions) by name.

    >>> @LOSSES.register_module()
    ... class MyLoss(nn.Module): ...
    >>> LOSSES.build(dict(type="MyLoss"))
    """

    def __init__(self, name: str) -> None:
        self.name = name
        self.module_dict: dict[str, Callable] = {}

    def __len__(self) -> int:
        return len(self.module_dict)

    def __contains__(self, key: str) -> bool:
        return self.get(key) is not None

    def __repr__(self) -> str:
        return f"{type(self).__name__}(name={self.name!r}, items={sorted(self.module_dict)})"

    def get(self, key: str) -> Callable | None:
        """The class registered as `key`, or None. A scope as in "mmdet.GIoULoss" is accepted."""
        if not isinstance(key, str):
            raise TypeError(f"key must be a str, got {type(key).__name__}")
        return self.module_dict.get(key.removeprefix("mmdet."))

    def build(self, cfg: dict[str, Any], default_args: dict[str, Any] | None = None) -> Any:
        """An instance of `cfg["type"]` (a name, or a class); the other entries are its arguments.

        `default_args` fills in entries that `cfg` lacks; neither dictionary is modified. KeyError:
        no or an unknown type. TypeError: `cfg` is no dictionary, or the class does not take an
        argument.
        """
        for argument, value in (("cfg", cfg), ("default_args", default_args or {})):
            if not isinstance(value, dict):
                raise TypeError(f"{argument} must be a dict, got {type(value).__name__}")
        arguments = {**(default_args or {}), **cfg}
        # mmengine switches registries by this key; there is only one here.
        arguments.pop("_scope_", None)
        if "type" not in arguments:
            raise KeyError(f'cfg must have the key "type", got {cfg}')
        kind = arguments.pop("type")
        if isinstance(kind, str):
            found = self.get(kind)
            if found is None:
                raise KeyError(
                    f"{kind} is not in the registry {self.name}: {sorted(self.module_dict)}"
                )
            kind = found
        elif not callable(kind):
            raise TypeError(f'cfg["type"] must be a str or a class, got {type(kind).__name__}')
        return kind(**arguments)

    def register_module(
        self,
        name: str | Sequence[str] | None = None,
        force: bool = False,
        module: Callable | None = None,
    ) -> Callable:
        """Register a class, under its own name or `name` (several names: a list).

        A decorator, ``@LOSSES.register_module()``, or a call,
        ``LOSSES.register_module(module=MyLoss)``. KeyError: the name is taken and `force` is not
        set.
        """
        if not isinstance(force, bool):
            raise TypeError(f"force must be a bool, got {type(force).__name__}")
        names = [name] if isinstance(name, str) else name
        if names is not None and not (
            isinstance(names, Sequence) and all(isinstance(entry, str) for entry in names)
        ):
            raise TypeError(f"name must be None, a str or a sequence of str, got {name!r}")

        def register(module: Callable) -> Callable:
            if not callable(module):
                raise TypeError(f"module must be callable, got {type(module).__name__}")
            for entry in names or [module.__name__]:
                if entry in self.module_dict and not force:
                    raise KeyError(
                        f"{entry} is already registered in {self.name}; force=True replaces it"
                    )
                self.module_dict[entry] = module
            return module

        return register if module is None else register(module)


LOSSES = Registry("loss")


def build_loss(cfg: dict[str, Any]) -> Any:
    """The loss of a config dictionary: ``build_loss(dict(type="GIoULoss", loss_weight=2.0))``."""
    return LOSSES.build(cfg)
