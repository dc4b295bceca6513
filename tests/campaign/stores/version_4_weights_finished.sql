CREATE TABLE control (
    path INTEGER NOT NULL REFERENCES path, first INTEGER NOT NULL, inputs INTEGER NOT NULL, masked INTEGER NOT NULL,
    lane TEXT NOT NULL, PRIMARY KEY (path, first)) WITHOUT ROWID;
INSERT INTO "control" VALUES(0,0,2,2,'whole');
INSERT INTO "control" VALUES(0,2,2,2,'whole');
CREATE TABLE injection (
    position INTEGER PRIMARY KEY, id TEXT NOT NULL UNIQUE, path INTEGER NOT NULL REFERENCES path, changes INTEGER NOT NULL,
    inputs INTEGER, first_input INTEGER);
INSERT INTO "injection" VALUES(0,'flip',0,1,NULL,NULL);
INSERT INTO "injection" VALUES(1,'two',0,1,NULL,NULL);
INSERT INTO "injection" VALUES(2,'satisfied',0,0,NULL,NULL);
INSERT INTO "injection" VALUES(3,'late',0,1,NULL,NULL);
CREATE TABLE outcome (
    position INTEGER NOT NULL REFERENCES injection, first INTEGER NOT NULL, inputs INTEGER NOT NULL,
    top_1_correct INTEGER, top_5_correct INTEGER, top_1_robust INTEGER, top_5_robust INTEGER, masked INTEGER, non_critical INTEGER, critical INTEGER, nonfinite INTEGER, critical_nonfinite INTEGER, sdc_5 INTEGER, sdc_10 INTEGER, sdc_20 INTEGER, per_input BLOB, scores BLOB,
    PRIMARY KEY (position, first)) WITHOUT ROWID;
INSERT INTO "outcome" VALUES(0,0,2,1,2,0,2,0,0,2,0,0,0,2,2,X'0206',X'000020C0000000C00000003F00002040');
INSERT INTO "outcome" VALUES(0,2,2,1,2,2,2,0,2,0,0,0,0,0,0,X'0105',X'000060400000E0400000D04000003841');
INSERT INTO "outcome" VALUES(1,0,2,1,2,2,2,0,2,0,2,0,0,2,2,X'8581',X'0000C07F000000400000C07F00006040');
INSERT INTO "outcome" VALUES(1,2,2,1,2,0,2,0,0,2,2,2,0,2,2,X'8682',X'0000C07F0000A0400000C07F0000D040');
INSERT INTO "outcome" VALUES(2,0,2,1,2,2,2,2,0,0,0,0,0,0,0,X'0400',X'00002041000000C00000B04000002040');
INSERT INTO "outcome" VALUES(2,2,2,1,2,2,2,2,0,0,0,0,0,0,0,X'0004',X'0000803F0000E040000060C000003841');
INSERT INTO "outcome" VALUES(3,0,2,1,2,2,2,1,1,0,0,0,0,0,0,X'0500',X'000020410000A0C00000B04000002040');
INSERT INTO "outcome" VALUES(3,2,2,1,2,2,2,0,2,0,0,0,0,0,0,X'0105',X'0000803F00002041000060C000008C41');
CREATE TABLE path (number INTEGER PRIMARY KEY, tensors TEXT NOT NULL UNIQUE);
INSERT INTO "path" VALUES(0,'["fc.weight"]');
CREATE TABLE receipt (
    position INTEGER NOT NULL REFERENCES injection, row INTEGER NOT NULL, layer, tensor_index, bit, parameter, kind, value, clean_bits, faulty_bits, clean_value, faulty_value, effect, bit_class, tensor, element, mask, site, input,
    PRIMARY KEY (position, row)) WITHOUT ROWID;
INSERT INTO "receipt" VALUES(0,0,'fc','(0, 0)',30,'weight','flip',NULL,'0xc0200000','0x80200000','-2.5','-2.938736e-39','changed','exponent','fc.weight',0,'40000000','',NULL);
INSERT INTO "receipt" VALUES(1,0,'fc','(1, 1)',31,'weight','flip',NULL,'0x3f000000','0xbf000000','0.5','-0.5','changed','sign','fc.weight',3,'80000000','',NULL);
INSERT INTO "receipt" VALUES(1,1,'fc','(2, 0)',NULL,'weight','set','nan','0x3fc00000','0x7fc00000','1.5','nan','changed','','fc.weight',4,'40000000','',NULL);
INSERT INTO "receipt" VALUES(2,0,'fc','(2, 1)',31,'weight','stuck_at_0',NULL,'0x40200000','0x40200000','2.5','2.5','none','sign','fc.weight',5,'0','',NULL);
INSERT INTO "receipt" VALUES(3,0,'fc','(2, 1)',22,'weight','flip',NULL,'0x40200000','0x40600000','2.5','3.5','changed','mantissa','fc.weight',5,'400000','',NULL);
CREATE TABLE setting (key TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;
INSERT INTO "setting" VALUES('design','null');
INSERT INTO "setting" VALUES('engine','"reference"');
INSERT INTO "setting" VALUES('golden','{"network": "old", "model_file": "old.onnx", "fault_list": "given in memory", "dataset": "old", "data": "all 4 inputs of old.npz, with labels", "inputs": 4, "input_design": "all", "values_per_input": 2, "probabilities": false, "labels": "01c84f606ffe38ee77bd47a06e5aaca8182c5ba6a3d4e6084c2ea05a0d7d4892", "top_1_correct": 2, "top_5_correct": 4, "scores": "f1f1e67017b214fae98160ad8d0e1e6f581f32376e1ce5f60e5f09025b469ed5", "providers": ["CPUExecutionProvider"], "machine": "AMD EPYC", "versions": {"onnxruntime": "1.31.1", "onnx": "1.23.2", "numpy": "2.4.6"}}');
INSERT INTO "setting" VALUES('identity','{"model": "83110149732360657d6892a18b93c7bd216ef303006b63b9a9b682d93cc52ea6", "faults": "9a025be182f3c9c46d967e230c2b5e89137575ac5a277215efc7964befaf8b2d", "data": "c9e2fed9bc8ff0f1f2448e606282f01a102c9a61f40a53723ac788c5a80cba36", "output": "y", "tolerance": null, "numerics": {"provider": "cpu", "fusion": "framework", "layout": "plain", "tf32": "off", "threads": 1, "batch_size": 2, "quantized": "none", "apart": false}, "inputs": null, "bit_order": "lsb", "records": ["scores", "per_input"]}');
INSERT INTO "setting" VALUES('lanes','{"fc.weight": "whole"}');
INSERT INTO "setting" VALUES('notes','["data: all 4 inputs of old.npz, with labels", "kernels: plain layout"]');
INSERT INTO "setting" VALUES('plan','"66b0a3f7b80c9bf8c463fa5c486843d7170bf86a0ec7f643782daacc3d6c1f6c"');
INSERT INTO "setting" VALUES('unit_length','2');
CREATE INDEX receipt_input ON receipt (position, input) WHERE input IS NOT NULL;
CREATE INDEX outcome_first ON outcome (first);
PRAGMA user_version = 4;
