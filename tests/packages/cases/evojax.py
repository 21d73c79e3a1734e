"""evojax: a policy network and a step of an evolution strategy."""

import jax
from evojax.algo import PGPE
from evojax.policy import MLPPolicy
from evojax.task.cartpole import CartPoleSwingUp

task = CartPoleSwingUp(test=False)
policy = MLPPolicy(input_dim=task.obs_shape[0], hidden_dims=[8], output_dim=task.act_shape[0])
solver = PGPE(pop_size=8, param_size=policy.num_params, optimizer="adam", seed=0)
params = solver.ask()
states = task.reset(jax.random.split(jax.random.PRNGKey(0), 8))
actions, _ = policy.get_actions(states, params, policy.reset(states))
print("parameters", policy.num_params, "actions", actions.sum())
solver.tell(actions[:, 0])
print("best", abs(solver.best_params).sum())
