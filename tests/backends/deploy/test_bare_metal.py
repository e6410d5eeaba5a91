from qpc.backends.deploy.bare_metal import MACHINES, SCRIPT, START, files
from qpc.targets import PRESETS


def test_every_core_has_a_board_that_can_be_emulated() -> None:
    bare = [target for target in PRESETS if target.architecture.system == "bare metal"]
    assert {target.emulated for target in bare} <= set(MACHINES)


def test_a_program_knows_the_memory_of_its_board() -> None:
    made = files("mps3-an547")
    assert set(made) == {START, SCRIPT}
    assert made[SCRIPT].count("LENGTH = 524288") == 2
