"""Constructor arguments of torch's optimizers, so that a verifier without torch knows which config keys are theirs.

Values are torch's defaults; where that is None, a value of the type to give. A test holds the table against torch.
"""

from typing import Any

_KERNEL = {"foreach": False, "maximize": False, "differentiable": False}
_GRAPH = {**_KERNEL, "capturable": False}
_ADAM = {"lr": 1e-3, "betas": (0.9, 0.999), "eps": 1e-8}

OPTIMIZERS: dict[str, dict[str, Any]] = {
    "ASGD": {"lr": 1e-2, "lambd": 1e-4, "alpha": 0.75, "t0": 1e6, "weight_decay": 0.0, **_GRAPH},
    "Adadelta": {"lr": 1.0, "rho": 0.9, "eps": 1e-6, "weight_decay": 0.0, **_GRAPH},
    "Adafactor": {
        "lr": 1e-2,
        "beta2_decay": -0.8,
        "eps": (1e-30, 1e-3),
        "d": 1.0,
        "weight_decay": 0.0,
        "foreach": False,
        "maximize": False,
    },
    "Adagrad": {
        "lr": 1e-2,
        "lr_decay": 0.0,
        "weight_decay": 0.0,
        "initial_accumulator_value": 0.0,
        "eps": 1e-10,
        **_KERNEL,
        "fused": False,
    },
    "Adam": {
        **_ADAM,
        "weight_decay": 0.0,
        "amsgrad": False,
        **_GRAPH,
        "fused": False,
        "decoupled_weight_decay": False,
    },
    "AdamW": {**_ADAM, "weight_decay": 1e-2, "amsgrad": False, **_GRAPH, "fused": False},
    "Adamax": {**_ADAM, "lr": 2e-3, "weight_decay": 0.0, **_GRAPH},
    "Muon": {
        "lr": 1e-3,
        "weight_decay": 0.1,
        "momentum": 0.95,
        "nesterov": True,
        "ns_coefficients": (3.4445, -4.775, 2.0315),
        "eps": 1e-7,
        "ns_steps": 5,
        "adjust_lr_fn": "original",
    },
    "NAdam": {
        **_ADAM,
        "lr": 2e-3,
        "weight_decay": 0.0,
        "momentum_decay": 4e-3,
        "decoupled_weight_decay": False,
        **_GRAPH,
    },
    "RAdam": {**_ADAM, "weight_decay": 0.0, "decoupled_weight_decay": False, **_GRAPH},
    "RMSprop": {
        "lr": 1e-2,
        "alpha": 0.99,
        "eps": 1e-8,
        "weight_decay": 0.0,
        "momentum": 0.0,
        "centered": False,
        **_GRAPH,
    },
    "Rprop": {"lr": 1e-2, "etas": (0.5, 1.2), "step_sizes": (1e-6, 50.0), **_GRAPH},
    "SGD": {
        "lr": 1e-3,
        "momentum": 0.0,
        "dampening": 0.0,
        "weight_decay": 0.0,
        "nesterov": False,
        **_KERNEL,
        "fused": False,
    },
    "SparseAdam": {**_ADAM, "maximize": False},
}
"""By class name. LBFGS is missing on purpose: it evaluates the loss several times a step."""
