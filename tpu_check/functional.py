"""Makes functions of variables into functions of tensors.

Without a device TensorFlow lowers no function that takes variables. So the
traced graph is rewritten, operation by operation in the order of creation:
operations that read or assign a variable use a tensor instead, and calls, loops
and branches that receive one are expanded. All others are copied.
"""

from typing import NamedTuple

import tensorflow as tf
from tensorflow.python.eager import context
from tensorflow.python.framework import function_def_to_graph
from tensorflow.python.framework import ops

_DROPPED = ("NoOp", "TPUReplicateMetadata")
_DROPPED_ATTRIBUTES = ("_output_shapes", "_class")
_DROPPED_PREFIXES = ("_Xla", "_xla", "_tpu_")


class Slot(NamedTuple):
    """A variable: the key of its present value."""

    key: int


def of_function(function, specs):
    """Lifts the variables of a `tf.function` into arguments and results.

    Args:
        function: A `tf.function`.
        specs: Of its arguments.

    Returns:
        A `tf.function` of (values of the variables, arguments), and the flat
        list of their specifications.
    """
    concrete = function.get_concrete_function(*specs)
    graph = concrete.graph
    captured, variables = [], []
    for outer, inner in graph.captures:
        if inner.dtype == tf.resource:
            captured.append(Slot(len(variables)))
            variables.append(_spec_behind(outer))
        else:
            captured.append(tf.constant(outer.numpy()))
    inputs = graph.inputs[: len(graph.inputs) - len(captured)]

    def pure(*tensors):
        values = dict(enumerate(tensors[: len(variables)]))
        before = dict(values)
        arguments = list(tensors[len(variables) :])
        results = _emit_graph(graph, arguments + captured, values)
        return results, _changed(values, before)

    specs = variables + [tf.TensorSpec(t.shape, t.dtype) for t in inputs]
    return tf.function(pure, jit_compile=True, autograph=False), specs


def _spec_behind(handle):
    # Not `graph.variables`: what is updated in place and never read, as a
    # fused optimiser does with its moments, is not among them.
    (data,) = handle._handle_data.shape_and_type
    return tf.TensorSpec(tf.TensorShape(data.shape), tf.as_dtype(data.dtype))


def of_cluster(graph):
    """Cuts out what one replica computes of a graph of `TPUStrategy.run`.

    Args:
        graph: A graph with one such call.

    Returns:
        As `of_function`.
    """
    operations = graph.get_operations()
    cluster = [o for o in operations if "_tpu_replicate" in o.node_def.attr]
    inside = set(cluster)
    outer = {
        t.ref(): t for o in cluster for t in o.inputs if t.op not in inside
    }.values()
    handles = [t for t in outer if t.dtype == tf.resource]
    arguments = [t for t in outer if t.dtype != tf.resource]
    roots = list(dict.fromkeys(_root(t) for t in handles))
    results = [o.inputs[0] for o in operations if o.type == _RESULT]

    def pure(*tensors):
        values = dict(enumerate(tensors[: len(roots)]))
        before = dict(values)
        known = {t.ref(): Slot(roots.index(_root(t))) for t in handles}
        rest = tensors[len(roots) :]
        known |= {t.ref(): v for t, v in zip(arguments, rest, strict=True)}
        _emit(cluster, known, values)
        found = [known[t.ref()] for t in results if t.ref() in known]
        return found, _changed(values, before)

    specs = [
        tf.TensorSpec(tf.TensorShape(r.get_attr("shape")), r.get_attr("dtype"))
        for r in roots
    ]
    specs += [tf.TensorSpec(t.shape, t.dtype) for t in arguments]
    return tf.function(pure, jit_compile=True, autograph=False), specs


_RESULT = "TPUReplicatedOutput"


def _root(tensor):
    """The operation that makes a replicated variable's first handle."""
    while tensor.op.type != "VarHandleOp":
        tensor = tensor.op.inputs[0]
    return tensor.op


def _changed(values, before):
    return [values[key] for key in values if values[key] is not before[key]]


def _emit_graph(graph, arguments, values):
    known = {t.ref(): a for t, a in zip(graph.inputs, arguments, strict=True)}
    inputs = {t.op for t in graph.inputs}
    needed = _needed(graph)
    rest = [o for o in graph.get_operations() if o in needed - inputs]
    _emit(rest, known, values)
    return [known[t.ref()] for t in graph.outputs]


def _needed(graph):
    """What has results or effects; loops leave the ranges they run over."""
    operations = graph.get_operations()
    waiting = [t.op for t in graph.outputs]
    waiting += [o for o in operations if o.op_def.is_stateful]
    needed = set()
    while waiting:
        op = waiting.pop()
        if op not in needed:
            needed.add(op)
            waiting += [t.op for t in op.inputs] + list(op.control_inputs)
    return needed


def _emit(operations, known, values):
    for op in operations:
        inputs = [known[t.ref()] for t in op.inputs]
        if any(isinstance(i, Slot) for i in inputs):
            outputs = _with_variables(op, inputs, values)
        else:
            outputs = _copied(op, inputs)
        for tensor, output in zip(op.outputs, outputs, strict=False):
            known[tensor.ref()] = output


def _with_variables(op, inputs, values):
    slot = inputs[0]
    match op.type:
        case "ReadVariableOp":
            return [tf.identity(values[slot.key])]
        case "AssignVariableOp":
            values[slot.key] = inputs[1]
        case "AssignAddVariableOp":
            values[slot.key] = values[slot.key] + inputs[1]
        case "AssignSubVariableOp":
            values[slot.key] = values[slot.key] - inputs[1]
        case "ResourceApplyAdam":
            _adam(inputs, values)
        case "VariableShape":
            return [tf.shape(values[slot.key])]
        case "Identity":
            return [slot]
        case "PartitionedCall" | "StatefulPartitionedCall":
            return _emit_graph(_graph_of(op, "f"), inputs, values)
        case "While" | "StatelessWhile":
            return _loop(op, inputs, values)
        case "If" | "StatelessIf":
            return _branch(op, inputs, values)
        case "NoOp":
            pass
        case _:
            raise NotImplementedError(f"{op.type} of a variable ({op.name})")
    return []


def _adam(inputs, values):
    """The arithmetic of the fused update, whose kernel wants variables."""
    slots, numbers = inputs[:3], inputs[3:]
    beta1_power, beta2_power, lr, beta1, beta2, epsilon, gradient = numbers
    var, m, v = (values[slot.key] for slot in slots)
    m = m + (gradient - m) * (1 - beta1)
    v = v + (tf.square(gradient) - v) * (1 - beta2)
    rate = lr * tf.sqrt(1 - beta2_power) / (1 - beta1_power)
    var = var - rate * m / (tf.sqrt(v) + epsilon)
    for slot, value in zip(slots, (var, m, v), strict=True):
        values[slot.key] = value


def _graph_of(op, attribute):
    """The traced graph behind a function that an operation calls."""
    name = op.get_attr(attribute).name
    graph = op.graph
    while graph is not None:
        found = graph._functions.get(name)
        if found is not None and getattr(found, "graph", None) is not None:
            return found.graph
        graph = getattr(graph, "outer_graph", None)
    definition = context.context().get_function_def(name)
    return function_def_to_graph.function_def_to_graph(definition)


def _copied(op, inputs):
    graph = ops.get_default_graph()
    if op.type in _DROPPED:
        return []
    for value in op.node_def.attr.values():
        called = [value.func] if value.HasField("func") else value.list.func
        for function in called:
            found = op.graph._functions.get(function.name)
            if found is not None:
                graph._add_function_recursive(found)
    attributes = {
        name: value
        for name, value in op.node_def.attr.items()
        if name not in _DROPPED_ATTRIBUTES
        and not name.startswith(_DROPPED_PREFIXES)
    }
    made = graph._create_op_internal(
        op.type,
        inputs,
        [t.dtype for t in op.outputs],
        name=op.name,
        attrs=attributes,
        op_def=op.op_def,
    )
    for old, new in zip(op.outputs, made.outputs, strict=True):
        new.set_shape(old.shape)
        if old.dtype in (tf.variant, tf.resource):
            new._handle_data = getattr(old, "_handle_data", None)
    return list(made.outputs)


def _loop(op, inputs, values):
    condition, body = _graph_of(op, "cond"), _graph_of(op, "body")
    keys = sorted({i.key for i in inputs if isinstance(i, Slot)})
    places = [n for n, i in enumerate(inputs) if not isinstance(i, Slot)]

    def split(tensors):
        arguments = list(inputs)
        for place, tensor in zip(places, tensors, strict=False):
            arguments[place] = tensor
        inner = values | dict(zip(keys, tensors[len(places) :], strict=True))
        return arguments, inner

    def do(*tensors):
        arguments, inner = split(tensors)
        results = _emit_graph(body, arguments, inner)
        return [results[n] for n in places] + [inner[k] for k in keys]

    results = tf.while_loop(
        lambda *tensors: _emit_graph(condition, *split(tensors))[0],
        do,
        [inputs[n] for n in places] + [values[k] for k in keys],
    )
    values.update(zip(keys, results[len(places) :], strict=True))
    outputs = list(inputs)
    for place, result in zip(places, results, strict=False):
        outputs[place] = result
    return outputs


def _branch(op, inputs, values):
    keys = sorted({i.key for i in inputs if isinstance(i, Slot)})

    def branch(attribute):
        inner = dict(values)
        results = _emit_graph(_graph_of(op, attribute), inputs[1:], inner)
        return results + [inner[k] for k in keys]

    results = tf.cond(
        inputs[0],
        lambda: branch("then_branch"),
        lambda: branch("else_branch"),
    )
    count = len(results) - len(keys)
    values.update(zip(keys, results[count:], strict=True))
    return list(results[:count])
