"""scvi-tools: its JAX VAE, two epochs, a latent representation, save and load."""

import tempfile

import anndata
import numpy as np
import scvi

scvi.settings.seed = 0
rng = np.random.default_rng(0)
data = anndata.AnnData(rng.poisson(2.0, (64, 20)).astype(np.float32))
data.obs["batch"] = np.array(["a", "b"] * 32)
scvi.model.JaxSCVI.setup_anndata(data, batch_key="batch")
model = scvi.model.JaxSCVI(data, n_latent=4, n_hidden=8)
model.train(max_epochs=2, batch_size=32, accelerator="cpu")
print("latent", np.asarray(model.get_latent_representation()).std())
with tempfile.TemporaryDirectory() as folder:
    model.save(folder, overwrite=True, save_anndata=True)
    again = scvi.model.JaxSCVI.load(folder)
print("again", np.asarray(again.get_latent_representation()).std())
