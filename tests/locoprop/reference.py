"""LocoProp for a chain of dense layers in NumPy, from the description of the official code."""

import numpy as np


def softmax(a):
    exponentials = np.exp(a - a.max(-1, keepdims=True))
    return exponentials / exponentials.sum(-1, keepdims=True)


FUNCTIONS = {
    "identity": lambda a: a,
    "tanh": np.tanh,
    "sigmoid": lambda a: (1 + np.tanh(a / 2)) / 2,
    "softmax": softmax,
    "relu": lambda a: np.where(a > 0, a, 0),
    "leaky_relu": lambda a: np.where(a > 0, a, 0.01 * a),
}
DERIVATIVES = {"identity": np.ones_like, "tanh": lambda a: 1 - np.tanh(a) ** 2, "relu": lambda a: (a > 0) * 1.0}

# Wrong readings of the official code; a test tells each of them apart.
PITFALLS = [
    "batch mean",
    "divided by batch twice",
    "gradient by activation",
    "epsilon outside",
    "mean square from zero",
    "reset",
    "sees new outputs",
    "rate outside momentum",
    "inner counter not reset",
    "clipped target",
]


def backpropagation(weights, transfers, rows):
    """The loss (cross-entropy, summed over features, mean over the batch), inputs, pre-activations, gradients."""
    inputs, pre_activations, y = [], [], rows
    for (kernel, bias), transfer in zip(weights, transfers, strict=True):
        inputs.append(y)
        pre_activations.append(y @ kernel + bias)
        y = FUNCTIONS[transfer](pre_activations[-1])
    logits = pre_activations[-1]
    loss = np.mean(np.sum(np.logaddexp(0, logits) - rows * logits, axis=-1))
    by_activation = None
    gradients = [(FUNCTIONS["sigmoid"](logits) - rows) / len(rows)]
    for layer in range(len(weights) - 1, 0, -1):
        by_activation = gradients[0] @ weights[layer][0].T
        gradients.insert(0, by_activation * DERIVATIVES[transfers[layer - 1]](pre_activations[layer - 1]))
    return loss, inputs, pre_activations, gradients


class Reference:
    """Holds float64 `weights`, pairs of kernel and bias, which `step(rows, learning_rate)` updates."""

    def __init__(self, weights, transfers, variant, *, activation_rate, local_steps, pitfall=None):
        self.weights = [[np.array(part, np.float64) for part in layer] for layer in weights]
        self.transfers, self.variant, self.pitfall = transfers, variant, pitfall
        self.activation_rate, self.local_steps = activation_rate, local_steps
        self.local_counter = 0
        self._reset()

    def _reset(self):
        start = 0.0 if self.pitfall == "mean square from zero" else 1.0
        self.mean_squares = [[np.full_like(part, start) for part in layer] for layer in self.weights]
        self.momenta = [[np.zeros_like(part) for part in layer] for layer in self.weights]

    def step(self, rows, learning_rate):
        if self.pitfall == "reset":
            self._reset()
        loss, inputs, pre_activations, gradients = backpropagation(self.weights, self.transfers, rows)
        output = inputs[0]
        for layer, transfer in enumerate(self.transfers):
            f = FUNCTIONS[transfer if self.variant == "m" else "identity"]
            g, x, before = gradients[layer], inputs[layer], pre_activations[layer]
            if self.pitfall == "divided by batch twice":
                g = g / len(rows)
            if self.pitfall == "gradient by activation" and layer + 1 < len(self.weights):
                g = gradients[layer + 1] @ self.weights[layer + 1][0].T
            if self.pitfall == "sees new outputs":
                x = output
            target = f(before) - self.activation_rate * g
            if self.pitfall == "clipped target":
                target = np.clip(target, -1, 1)
            for t in range(self.local_steps):
                counter = self.local_counter + t if self.pitfall == "inner counter not reset" else t
                rate = learning_rate * max(1 - counter / self.local_steps, 0.25)
                kernel, bias = self.weights[layer]
                delta = f(x @ kernel + bias) - target
                if self.pitfall == "batch mean":
                    delta = delta / len(rows)
                self._rmsprop(layer, (x.T @ delta, delta.sum(axis=0)), rate)
            kernel, bias = self.weights[layer]
            output = FUNCTIONS[transfer](output @ kernel + bias)
        self.local_counter += self.local_steps
        return loss

    def _rmsprop(self, layer, gradient, rate):
        for part, g in enumerate(gradient):
            ms, mom = self.mean_squares[layer], self.momenta[layer]
            ms[part] = 0.9 * ms[part] + 0.1 * g**2
            root = np.sqrt(ms[part]) + 1e-5 if self.pitfall == "epsilon outside" else np.sqrt(ms[part] + 1e-5)
            if self.pitfall == "rate outside momentum":
                mom[part] = 0.999 * mom[part] + g / root
                self.weights[layer][part] = self.weights[layer][part] - rate * mom[part]
            else:
                mom[part] = 0.999 * mom[part] + rate * g / root
                self.weights[layer][part] = self.weights[layer][part] - mom[part]
