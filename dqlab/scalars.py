"""Which bindings may differ between the replicas of one pack: scalar hyper-parameters of the algorithm."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from dqlab import configuration
from dqlab.algorithms.base import Algorithm, algorithms
from dqlab.errors import ConfigError
from dqlab.policies.base import Dims
from dqlab.replica import Replica
from dqlab.training.rehearsal import read_directly


def scalar_of(name: str, algorithm: Algorithm, binding: str) -> str | None:
    """The scalar hyper-parameter that a binding sets; None where it sets anything else.

    Args:
        name: the algorithm's, in its registry.
        algorithm: it, configured.
        binding: a gin name, such as `DiffusionQL.eta`, however short.
    """
    selector, _, field = configuration.complete(binding).rpartition(".")
    own = selector == algorithms.selector(algorithms.entry(name))
    return field if own and field in algorithm.hyper() else None


def varied(name: str, algorithm: Algorithm, replica: Replica) -> Algorithm:
    """The algorithm with the scalars that a replica sets.

    Raises:
        ConfigError: it sets something else, or what the algorithm refuses.
    """
    place, fields = f"Experiment.replicas['{replica.name}']", {}
    for binding, value in replica.bindings.items():
        field = scalar_of(name, algorithm, binding)
        if field is None:
            raise ConfigError(
                f"{place} sets {binding}, which is no scalar hyper-parameter of '{name}': those are "
                f"{', '.join(algorithm.hyper())}. Bind it for the whole run."
            )
        fields[field] = value
    try:
        return replace(algorithm, **fields)  # type: ignore[type-var]
    except ConfigError as error:
        raise ConfigError(f"{place}: {error}") from error


def check_varied(each: Sequence[Algorithm], dims: Dims) -> None:
    """See that the scalars in which algorithms differ reach their losses as a replica's own.

    Raises:
        ConfigError: one is read from the algorithm itself, which all replicas of a pack share.
    """
    first = each[0].hyper()
    differing = {name for other in each for name, value in other.hyper().items() if value != first[name]}
    if differing and (shared := sorted(differing & read_directly(each[0], dims))):
        kind = type(each[0]).__name__
        raise ConfigError(
            f"{kind} reads self.{shared[0]}, which all replicas of a pack share, so they cannot differ in it. Read "
            f"hyper['{shared[0]}'] in its losses, or name it in {kind}.structural."
        )
