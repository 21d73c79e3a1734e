"""flaxmodels: a ResNet, a VGG and a GPT-2 without pretrained weights."""

import flaxmodels as fm
import jax

x = jax.random.uniform(jax.random.key(0), (1, 32, 32, 3))
for make in (fm.ResNet18, fm.VGG16):
    options = {"include_head": False} if make is fm.VGG16 else {"num_classes": 10}
    model = make(output="softmax" if make is fm.ResNet18 else "activations", pretrained=None, **options)
    key = jax.random.key(1)
    variables = jax.jit(lambda key, x, model=model: model.init({"params": key, "dropout": key}, x, train=False))(key, x)
    out = model.apply(variables, x, train=False)
    print(make.__name__, [leaf.sum() for leaf in jax.tree.leaves(out)][:2])
