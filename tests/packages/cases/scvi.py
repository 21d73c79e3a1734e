"""scvi-tools: its model with Flax, trained for two epochs on counts, and what it says of cells."""

import anndata
import numpy as np
import scvi

rng = np.random.default_rng(0)
cells = anndata.AnnData(rng.poisson(2.0, (64, 20)).astype(np.float32))
scvi.settings.seed = 0
scvi.settings.verbosity = 40
model_class = scvi.external.JaxSCVI if hasattr(scvi.external, "JaxSCVI") else scvi.model.JaxSCVI
model_class.setup_anndata(cells)
model = model_class(cells, n_latent=2, n_hidden=8)
model.train(max_epochs=2, accelerator="cpu", batch_size=32, enable_progress_bar=False, check_val_every_n_epoch=None)
print("latent", float(abs(model.get_latent_representation()).sum()))
