"""Every setting can be named, and each name is its own."""

from microvmd.settings.names import setting_names, variable


def test_every_setting_has_a_variable_that_is_its_own() -> None:
    names = setting_names()
    assert len({variable(name) for name in names}) == len(names)
    assert all(meaning for _, meaning in names.values())
