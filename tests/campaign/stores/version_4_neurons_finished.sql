CREATE TABLE control (
    path INTEGER NOT NULL REFERENCES path, first INTEGER NOT NULL, inputs INTEGER NOT NULL, masked INTEGER NOT NULL,
    lane TEXT NOT NULL, PRIMARY KEY (path, first)) WITHOUT ROWID;
INSERT INTO "control" VALUES(0,0,2,2,'whole');
INSERT INTO "control" VALUES(0,2,2,2,'whole');
INSERT INTO "control" VALUES(1,0,2,2,'whole');
INSERT INTO "control" VALUES(1,2,2,2,'whole');
CREATE TABLE injection (
    position INTEGER PRIMARY KEY, id TEXT NOT NULL UNIQUE, path INTEGER NOT NULL REFERENCES path, changes INTEGER NOT NULL,
    inputs INTEGER, first_input INTEGER);
INSERT INTO "injection" VALUES(0,'flip',0,1,NULL,NULL);
INSERT INTO "injection" VALUES(1,'satisfied',0,0,NULL,NULL);
INSERT INTO "injection" VALUES(2,'one',1,1,1,NULL);
INSERT INTO "injection" VALUES(3,'every',1,1,NULL,NULL);
CREATE TABLE outcome (
    position INTEGER NOT NULL REFERENCES injection, first INTEGER NOT NULL, inputs INTEGER NOT NULL,
    top_1_correct INTEGER, top_5_correct INTEGER, top_1_robust INTEGER, top_5_robust INTEGER, masked INTEGER, non_critical INTEGER, critical INTEGER, nonfinite INTEGER, critical_nonfinite INTEGER, sdc_5 INTEGER, sdc_10 INTEGER, sdc_20 INTEGER, per_input BLOB, scores BLOB,
    PRIMARY KEY (position, first)) WITHOUT ROWID;
INSERT INTO "outcome" VALUES(0,0,2,1,2,0,2,0,0,2,0,0,0,2,2,X'0206',X'000020C0000000C00000003F00002040');
INSERT INTO "outcome" VALUES(0,2,2,1,2,2,2,0,2,0,0,0,0,0,0,X'0105',X'000060400000E0400000D04000003841');
INSERT INTO "outcome" VALUES(1,0,2,1,2,2,2,2,0,0,0,0,0,0,0,X'0400',X'00002041000000C00000B04000002040');
INSERT INTO "outcome" VALUES(1,2,2,1,2,2,2,2,0,0,0,0,0,0,0,X'0004',X'0000803F0000E040000060C000003841');
INSERT INTO "outcome" VALUES(2,2,1,1,1,0,1,0,0,1,0,0,0,1,1,X'06',X'0000803F0000E0C0');
INSERT INTO "outcome" VALUES(3,0,2,2,2,1,2,0,1,1,0,0,0,2,1,X'0506',X'00002001000000C00000B00000002040');
INSERT INTO "outcome" VALUES(3,2,2,2,2,1,2,0,1,1,1,1,0,1,1,X'8605',X'0000807F0000E0400000608000003841');
CREATE TABLE path (number INTEGER PRIMARY KEY, tensors TEXT NOT NULL UNIQUE);
INSERT INTO "path" VALUES(0,'["fc.weight"]');
INSERT INTO "path" VALUES(1,'["@output:y"]');
CREATE TABLE receipt (
    position INTEGER NOT NULL REFERENCES injection, row INTEGER NOT NULL, layer, tensor_index, bit, parameter, kind, value, clean_bits, faulty_bits, clean_value, faulty_value, effect, bit_class, tensor, element, mask, site, input,
    PRIMARY KEY (position, row)) WITHOUT ROWID;
INSERT INTO "receipt" VALUES(0,0,'fc','(0, 0)',30,'weight','flip',NULL,'0xc0200000','0x80200000','-2.5','-2.938736e-39','changed','exponent','fc.weight',0,'40000000','',NULL);
INSERT INTO "receipt" VALUES(1,0,'fc','(2, 1)',31,'weight','stuck_at_0',NULL,'0x40200000','0x40200000','2.5','2.5','none','sign','fc.weight',5,'0','',NULL);
INSERT INTO "receipt" VALUES(2,0,'fc','(1,)',31,'','flip',NULL,'0x40e00000','0xc0e00000','7.0','-7.0','changed','sign','@output:y',1,'ffffffff:80000000','output',2);
INSERT INTO "receipt" VALUES(3,0,'fc','(0,)',30,'','flip',NULL,'','','','','per input','exponent','@output:y',0,'ffffffff:40000000','output',NULL);
CREATE TABLE setting (key TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;
INSERT INTO "setting" VALUES('design','null');
INSERT INTO "setting" VALUES('engine','"reference"');
INSERT INTO "setting" VALUES('golden','{"network": "old", "model_file": "old.onnx", "fault_list": "given in memory", "dataset": "old", "data": "all 4 inputs of old.npz, with labels", "inputs": 4, "input_design": "all", "values_per_input": 2, "probabilities": false, "labels": "01c84f606ffe38ee77bd47a06e5aaca8182c5ba6a3d4e6084c2ea05a0d7d4892", "top_1_correct": 2, "top_5_correct": 4, "scores": "f1f1e67017b214fae98160ad8d0e1e6f581f32376e1ce5f60e5f09025b469ed5", "providers": ["CPUExecutionProvider"], "machine": "AMD EPYC", "versions": {"onnxruntime": "1.31.1", "onnx": "1.23.2", "numpy": "2.4.6"}}');
INSERT INTO "setting" VALUES('identity','{"model": "83110149732360657d6892a18b93c7bd216ef303006b63b9a9b682d93cc52ea6", "faults": "18d9bdce391b223a279afe7b67871cb38cd51e86fbfa8c9e61964b3fbee1c769", "data": "c9e2fed9bc8ff0f1f2448e606282f01a102c9a61f40a53723ac788c5a80cba36", "output": "y", "tolerance": null, "numerics": {"provider": "cpu", "fusion": "framework", "layout": "plain", "tf32": "off", "threads": 1, "batch_size": 2, "quantized": "none", "apart": true}, "inputs": null, "bit_order": "lsb", "records": ["scores", "per_input"]}');
INSERT INTO "setting" VALUES('lanes','{"fc.weight": "whole", "@output:y": "whole"}');
INSERT INTO "setting" VALUES('notes','["data: all 4 inputs of old.npz, with labels"]');
INSERT INTO "setting" VALUES('plan','"03ba2509589b9151bce686dd7d0464615175358fa7157c98ef9cd13828233380"');
INSERT INTO "setting" VALUES('unit_length','2');
CREATE INDEX receipt_input ON receipt (position, input) WHERE input IS NOT NULL;
CREATE INDEX outcome_first ON outcome (first);
PRAGMA user_version = 4;
