"""One file a family, named as its file in ``cnnjax.models``: how other libraries name its layers.

Each defines ``rules(name, model)``, which returns a `cnnjax.pretrained.names.Rules` for every source that has the
variant ``name``, by source ("torchvision", "timm", "keras"). ``model`` is the network, for names that depend on its
fields. The source "torch" (a PyTorch state dict with our own names, dots for slashes) needs no rules except for
layouts that shapes do not tell.
"""
