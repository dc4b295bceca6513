"""A command line of each command, shown at the end of its help."""

_MODEL, _LIST = "models/digits_cnn.onnx", "fault_lists/digits_cnn.csv"

#: Command → its arguments in an example. Those with models/ and fault_lists/ run in a checkout of the repository.
EXAMPLES = {
    "inspect": _MODEL,
    "inject": f"{_MODEL} {_LIST} -o run",
    "evaluate": f"{_MODEL} --first 100",
    "rewrite": f"{_MODEL} {_LIST} --injection 0 -o faulty.onnx",
    "estimate": "run --by network,layer -o rates.csv",
    "neurons": f"{_MODEL} --trials 10 -o neurons_run",
    "rank": f"{_MODEL} --builtin index,macs,oracle -o rank_run",
    "sweep": f"{_MODEL} --rates 1e-6:1e-3 -o sweep_run",
    "compare": "torch_run keras_run -o comparison",
    "crosscheck": "net.onnx faults.csv --native torch:net.py:build --weights net.pt",
    "export torch": "net.py:build --weights net.pt --input-shape 3,32,32 -o net.onnx",
    "export keras": "net.keras -o net.onnx",
    "export onnx-to-keras": "net.onnx -o net.keras",
    "export zoo": "ResNet20 --dataset CIFAR10 -o resnet20.onnx",
    "faults generate": f"{_MODEL} --scheme layer --margin 0.05 -o faults.csv",
    "faults validate": f"{_LIST} --model {_MODEL}",
    "faults convert": "torch.csv --from torch.onnx --to keras.onnx -o keras.csv",
    "faults describe": f"{_LIST} --model {_MODEL}",
    "results export": "run --dialect tf_injector -o tf_injector.csv",
}
