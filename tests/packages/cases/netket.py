"""netket: a restricted Boltzmann machine, a few steps to the ground state of a chain of spins."""

import netket as nk
import numpy as np

hilbert = nk.hilbert.Spin(0.5, 4)
hamiltonian = nk.operator.IsingJax(hilbert, nk.graph.Chain(4), h=1.0)
state = nk.vqs.FullSumState(hilbert, nk.models.RBM(alpha=1), seed=0)
driver = nk.VMC(hamiltonian, nk.optimizer.Sgd(0.05), variational_state=state)
driver.run(5, out=None, show_progress=False)
print("energy", np.real(state.expect(hamiltonian).mean))
sampled = nk.vqs.MCState(
    nk.sampler.MetropolisLocal(hilbert, n_chains=4),
    nk.models.Jastrow(),
    n_samples=32,
    seed=0,
    sampler_seed=0,
)
print("sampled", np.real(sampled.expect(hamiltonian).mean))
