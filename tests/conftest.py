"""The order of the tests."""

# They start the training command again and again. Begun first, such a file is not what is left for
# one process when the others are done (pytest -n).
LONG_FILES = ("test_train_net.py", "test_train_classifier.py")


def pytest_collection_modifyitems(items):
    items.sort(key=lambda item: item.path.name not in LONG_FILES)
