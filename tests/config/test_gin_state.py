"""What dqlab reads and changes of gin beyond its documentation is there, and does what is expected of it."""

from __future__ import annotations

import re

import gin
from conftest import ROOT

from dqlab.config import gin_state
from dqlab.config.gin_files import load_gin
from dqlab.training import Training


def test_one_file_touches_gins_variables() -> None:
    private = re.compile(r"gin(_config|\.config)\._|_(REGISTRY|CONFIG|OPERATIVE_CONFIG|SINGLETONS)\b")
    found = [path.name for path in (ROOT / "dqlab").rglob("*.py") if private.search(path.read_text())]
    assert found == ["gin_state.py"]


def test_what_is_bound_and_what_is_read() -> None:
    """Without it, no run's configuration could be stored, nor a binding without effect be refused."""
    load_gin([], ["Training.steps=7", "Training.batch_size=3"])
    assert gin_state.bound_parameters() == {"training.Training.steps": 7, "training.Training.batch_size": 3}
    assert not gin_state.parameters_read()
    assert Training().steps == 7
    assert gin_state.operative_parameters()["training.Training.batch_size"] == 3
    assert gin_state.operative_parameters()["training.Training.top_k"] == 1


def test_a_configurables_names_lead_to_what_was_written() -> None:
    """Without it, neither `dqlab list` nor the check of a binding's name knows a component's parameters."""
    assert gin_state.shortest_name("training.Training") == "Training"
    assert gin_state.complete_name("Training.steps") == "training.Training.steps"
    assert gin_state.configurables()["training.Training"].__name__ == "Training"
    assert gin_state.matching_selectors("Nothing") == []


def test_a_name_is_free_again() -> None:
    """Without it, a plugin that fails half-way would keep the names that it has taken."""

    def own_made_up_thing(size: int = 3) -> int:
        return size

    for size in (5, 6):
        own = gin.configurable(own_made_up_thing.__name__, module="made_up")(own_made_up_thing)
        load_gin([], [f"own_made_up_thing.size={size}"])
        assert own() == size
        gin.clear_config()
        with gin.unlock_config():
            gin_state.remove_configurable("made_up.own_made_up_thing")
            assert "made_up.own_made_up_thing" not in gin_state.configurables()


def test_a_second_configuration_leaves_the_first_alone() -> None:
    """Without it, a collection's recipe would be read into the run that it is made for."""
    load_gin([], ["Training.steps=7"])
    other = gin_state.OtherConfiguration()
    with other:
        assert Training().steps == 2_000_000
        load_gin([], ["Training.steps=9"])
    assert Training().steps == 7
    with other:
        assert Training().steps == 9
