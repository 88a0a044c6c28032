"""Labels of a multi-label image, object by object."""


def labels_of(objects, classes, difficult):
    """One label a class for an image's objects (class name, whether it is marked difficult)."""
    labels = []
    for wanted in classes:
        label = 0
        for name, is_difficult in objects:
            if name == wanted and not is_difficult:
                label = 1
                break
            if name == wanted and difficult != "negative":
                label = 1 if difficult == "positive" else -1
        labels.append(label)
    return labels
