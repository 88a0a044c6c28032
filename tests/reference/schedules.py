"""Learning rates, one iteration after the other."""

import math


def annealed(start, end, share):
    """From start to end along half a cosine."""
    return end + (start - end) * (1 + math.cos(math.pi * share)) / 2


def warm_restarts(base, first, multiply, number):
    """SGDR: cycles of falling rates, each ``multiply`` times as long as the one before."""
    rates, length = [], first
    while len(rates) < number:
        for iteration in range(length):
            rates.append(annealed(base, 0.0, iteration / length))
        length *= multiply
    return rates[:number]


def one_cycle(base, number):
    """1cycle: rates, and momenta that go the other way; 30 % of the iterations rise."""
    rates, momenta = [], []
    top, last = 0.3 * number - 1, number - 1
    for iteration in range(number):
        if iteration <= top:
            rates.append(annealed(base / 25, base, iteration / top))
            momenta.append(annealed(0.95, 0.85, iteration / top))
        else:
            share = (iteration - top) / (last - top)
            rates.append(annealed(base, base / 25 / 1e4, share))
            momenta.append(annealed(0.85, 0.95, share))
    return rates, momenta


def steps_after_epochs(base, factor, every, iterations, epochs):
    """A rate that is multiplied by ``factor`` after every so many epochs of so many iterations."""
    rates, rate = [], base
    for epoch in range(epochs):
        if epoch > 0 and epoch % every == 0:
            rate *= factor
        rates += [rate] * iterations
    return rates


def adam(weight, gradients, rate, decay, *, decoupled):
    """The weight after Adam's steps: decay is added to the gradient, or taken off the weight."""
    mean, square = 0.0, 0.0
    for step, gradient in enumerate(gradients, start=1):
        if decoupled:
            weight -= rate * decay * weight
        else:
            gradient = gradient + decay * weight
        mean = 0.9 * mean + 0.1 * gradient
        square = 0.999 * square + 0.001 * gradient**2
        corrected = mean / (1 - 0.9**step), square / (1 - 0.999**step)
        weight -= rate * corrected[0] / (math.sqrt(corrected[1]) + 1e-8)
    return weight
