"""Leave the rows that the table makes by itself to ``make test-all``."""

import pytest

from methods_table import METHODS


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark the cases of generated rows without a recipe: such a row differs from others in the host only."""
    for item in items:
        name = item.callspec.params.get("name") if hasattr(item, "callspec") else None
        if isinstance(name, str) and name in METHODS and not METHODS[name].long:
            item.add_marker(pytest.mark.thorough)
