"""Odd inputs of the tool: what people have in their files, and what must come of it.

Each case is (name, file name, bytes, options, outcome): the outcome is the number of molecules that
training gets, or a pattern of the error.
"""

from __future__ import annotations

import gzip
import re

SMILES = [
    "CCO", "CCN", "CCCC", "c1ccccc1", "c1ccccc1C", "c1ccncc1", "C1CC1", "C1CCC1", "C1CCCC1",
    "c1ccoc1", "c1ccsc1", "CC(=O)O",
]  # fmt: skip
N = len(SMILES)
CASES: list[tuple] = []
_CUT = "expected .* cells|in the row that begins in line"


def case(name, content, outcome, file="data.csv", **options):
    data = content if isinstance(content, bytes) else content.encode()
    CASES.append((name, file, data, options, outcome))


def table(values=None, sep=",", end="\n", head=("smiles", "y"), smiles=SMILES):
    values = [str(i / 2) for i in range(len(smiles))] if values is None else values
    rows = [head, *zip(smiles, values)]
    return end.join(sep.join(row) for row in rows) + end


def with_value(cell, row=3):
    values = [str(i / 2) for i in range(N)]
    values[row] = cell
    return table(values)


def with_smiles(text):
    return table(smiles=[*SMILES, text], values=[str(i / 2) for i in range(N + 1)])


PLAIN = table()
# Encodings.
for encoding in ("utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-16-be", "utf-32", "ascii"):
    case(f"encoding {encoding}", PLAIN.encode(encoding), N)
MU = table(head=("smiles", "µ mol"))
for encoding in ("utf-8", "utf-8-sig", "utf-16", "utf-16-le", "cp1252", "latin-1"):
    case(f"µ in {encoding}", MU.encode(encoding), N, target_column="µ mol")
case("named encoding", MU.encode("cp1252"), N, target_column="µ mol", encoding="cp1252")
case("named utf-16", PLAIN.encode("utf-16"), N, encoding="utf-16")
case("wrong encoding", MU.encode("cp1252"), "pass the file's own --encoding", encoding="utf-8",
     target_column="µ mol")  # fmt: skip
case("unknown encoding", PLAIN, "expected encoding as a name", encoding="klingon")
case("cp1252 byte late", PLAIN.encode() + b"C\xb5,1\n", N)
case("no encoding at all", PLAIN.encode() + b"\x81\x8d,1\n", "none of these; save it as UTF-8")
case("utf-16 cut in half", PLAIN.encode("utf-16")[:-1], "near byte")
# Compression and foreign files.
case("gzip", gzip.compress(PLAIN.encode()), N, file="data.csv.gz")
case("gzip without its ending", gzip.compress(PLAIN.encode()), N)
case("gzip of utf-16", gzip.compress(PLAIN.encode("utf-16")), N)
case("gzip ending on plain text", PLAIN, N, file="data.csv.gz")
case("gzip cut short", gzip.compress(PLAIN.encode())[:-12], "cannot be unpacked")
case("gzip of nothing", gzip.compress(b""), "unpacks to nothing")
case("gzip with noise", gzip.compress(PLAIN.encode())[:20] + b"\x07" * 40, "cannot be unpacked")
case("excel", b"PK\x03\x04" + b"\0" * 50, "Excel workbook")
case("old excel", b"\xd0\xcf\x11\xe0" + b"\0" * 50, "Excel workbook")
case("bzip2", b"BZh91AY", "compressed by bzip2")
case("xz", b"\xfd7zXZ\0", "compressed by xz")
case("zstd", b"\x28\xb5\x2f\xfd\x00", "compressed by zstd")
case("sqlite", b"SQLite format 3\0", "a database")
case("binary file", bytes(range(256)) * 40, "a binary file|none of these")
case("zero bytes", PLAIN.encode() + b"\0" * 3, "a binary file")
case("empty", b"", "which is empty")
case("newline only", "\n", "blank lines only")
case("blanks only", "  \n \n", "blank lines only")
case("bom only", b"\xef\xbb\xbf", "blank lines only")
case("header only", "smiles,y\n", "a header only")
case("header and blank lines", "smiles,y\n\n\n", "a header only")
case("unknown ending", PLAIN, "whose name ends with one of", file="data.xyz")
case("no ending", PLAIN, "whose name ends with one of", file="data")
case("unknown ending, format given", PLAIN, N, file="data.xyz", format="csv")
case("unknown format", PLAIN, "expected format out of", format="json")
case("upper-case ending", PLAIN, N, file="DATA.CSV")
# Separators, quotes and line ends.
case("semicolon", table(sep=";"), N)
case("tab", table(sep="\t"), N)
case("tab in tsv", table(sep="\t"), N, file="data.tsv")
case("comma in tsv", PLAIN, N, file="data.tsv")
case("pipe, given", table(sep="|"), N, separator="|")
case("pipe, not given", table(sep="|"), "expected a column")
case("semicolon by name", table(sep=";"), N, separator="semicolon")
case("tab by name", table(sep="\t"), N, separator="tab")
case("wrong separator", PLAIN, "expected a column", separator="semicolon")
case("long separator", PLAIN, "expected separator as comma", separator="::")
case("quote as separator", PLAIN, "expected separator as comma", separator='"')
case("excel sep line", "sep=;\n" + table(sep=";"), N)
case("crlf", table(end="\r\n"), N)
case("cr", table(end="\r"), N)
case("no newline at the end", PLAIN.rstrip("\n"), N)
case("quoted cells", "\n".join(f'"{s}","{i}"' for i, s in [("y", "smiles"), *enumerate(SMILES)]), N)
case("doubled quotes", PLAIN.replace("smiles,y", 'smiles,y,note').replace("\n", ',"a ""b"""\n')
     .replace('note,"a ""b"""', "note"), N)  # fmt: skip
case("newline in quotes", 'smiles,y,note\n' + "".join(f'{s},1.{i},"a\nb"\n'
     for i, s in enumerate(SMILES)), N)  # fmt: skip
case("separator in quotes", 'smiles,y,note\n' + "".join(f'{s},1.{i},"a,b"\n'
     for i, s in enumerate(SMILES)), N)  # fmt: skip
case("open quote", PLAIN + '"CCO,1\nCCN,2\n', _CUT)
case("quote inside a cell", PLAIN + 'CC"O,1\n', N)
case("text after a quote", PLAIN + '"CCO"x,1\n', _CUT)
case("blanks around names", table(head=(" smiles ", " y ")), N)
case("blanks around cells", table(values=[f" {i} " for i in range(N)]), N)
case("blank rows", table(end="\n\n"), N)
case("blank rows at the end", PLAIN + "\n\n\n", N)
case("rows of separators", PLAIN + ",\n,\n", N)
case("row of blanks", PLAIN + "  \n" + "CCS,1\n", N + 1)
# Columns.
case("trailing comma in rows", PLAIN.replace("\n", ",\n").replace("smiles,y,\n", "smiles,y\n"),
     "expected 2 cells in each row .* got 3 in row 1 .line 2.; remove the ','")  # fmt: skip
case("trailing comma everywhere", PLAIN.replace("\n", ",\n"), N)
case("one row too long", PLAIN + "CCS,1,2\n", "got 3 in row 13 .line 14.; quote cells")
case("one row too short", PLAIN + "CCS\n", "got 1 in row 13 .line 14.; add the missing")
case("long row first", "smiles,y\nCCO,1,2\n" + PLAIN[9:], "got 3 in row 1")
case("decimal comma", with_value('"1,5"'), "'1,5' in row 4 .line 5.; write decimals with a point")
case("decimal comma, semicolon", table(["1,5"] * N, ";"), "write decimals with a point")
case("no such target", PLAIN, "expected a column 'z' .* pass the name", target_column="z")
case("target in other case", PLAIN, "is 'y' meant", target_column="Y")
case("no target", PLAIN, "expected target_column", target_column="")
case("comma as target", PLAIN, "expected target_column as names", target_column="y,")
case("target twice", PLAIN, "expected each target_column once", target_column="y,y")
case("smiles as target", PLAIN, "other columns than that of SMILES", target_column="smiles")
case("no smiles", table(head=("a", "y")), "expected a column of SMILES")
case("smiles by another name", table(head=("a", "y")), N, smiles_column="a")
case("smiles in capitals", table(head=("SMILES", "y")), N)
case("canonical_smiles", table(head=("Canonical_Smiles", "y")), N)
case("no such smiles column", PLAIN, "expected a column 'b'", smiles_column="b")
case("no header", PLAIN[9:], "the first line seems to hold a molecule", target_column="0.0")
case("target column twice", PLAIN.replace("smiles,y", "smiles,y,y").replace("\n", ",0\n")
     .replace("y,y,0", "y,y"), "expected one column 'y' .* got 2; rename")  # fmt: skip
case("smiles column twice", "smiles,smiles,y\n" + "".join(f"{s},{s},{i}\n" for i, s in
     enumerate(SMILES)), "expected one column of SMILES")  # fmt: skip
case("another column twice", "smiles,a,a,y\n" + "".join(f"{s},,,{i}\n" for i, s in
     enumerate(SMILES)), N)  # fmt: skip
case("empty names", "smiles,,y\n" + "".join(f"{s},,{i}\n" for i, s in enumerate(SMILES)), N)
case("header of commas", ",,\nC,1,2\n", "with a header, got an empty one")
case("weights as target", PLAIN, "for both", weight_column="y")
# Numbers.
for cell in ("inf", "-inf", "Infinity", "+Inf"):
    case(f"value {cell}", with_value(cell), rf"got '{re.escape(cell)}' in row 4 .line 5.; leave")
for cell in ("1e400", "1e39", "-1e31", "9" * 400, "1e31"):
    case(f"value {cell[:9]}", with_value(cell), "expected numbers of at most 1e.30 .* in row 4")
for cell in ("high", "1.2.3", "1_000", "1 000", "0x1F", "1e", "--1", "1,000.5", "<5", "1.5%",
             "\uff11\uff12", "5 mg", "=A1", "1/2", "٣"):  # fmt: skip
    case(f"value {cell}", with_value(f'"{cell}"'), "expected numbers in column 'y' .* in row 4")
for cell in ("", " ", "NA", "nan", "NaN", "N/A", "null", "None", "<NA>", "?", "-"):
    case(f"gap {cell!r}", with_value(cell), N - 1)
for cell in ("+1.5", "-2", ".5", "5.", "1E3", "1e-300", "00012", "1e29", "-0.0"):
    case(f"number {cell}", with_value(cell), N)
case("gaps only", table([""] * N), "got gaps only in all 12 rows")
case("one value", table(["1.5"] + [""] * (N - 1)), "expected three molecules or more with targets")
case("constant", table(["1.5"] * N), N)
case("constant and huge", table(["1e29"] * N), N)
case("tiny", table([f"{i}e-30" for i in range(N)]), N)
case("large offset", table([f"{1e12 + i}" for i in range(N)]), N)
case("integers", table([str(i) for i in range(N)]), N)
# Tasks.
BITS = ["0", "1"] * (N // 2)
case("binary", table(BITS), N)
case("binary with gaps", table(["0", "1", ""] * (N // 3)), N - 4)
case("true and false", table(["true", "False"] * (N // 2)), N)
case("one class", table(["0"] * N), N)
case("other class", table(["1"] * N), N)
case("1.0 and 0.0", table(["0.0", "1.0"] * (N // 2)), N)
case("-1 and 1 as binary", table(["-1", "1"] * (N // 2)), "expected 0, 1 or gaps", task="binary")
case("-1 and 1", table(["-1", "1"] * (N // 2)), N)
case("numbers as binary", PLAIN, "got 0.5 in row 2 .line 3.", task="binary")
case("bits regressed", table(BITS), N, task="regression")
case("bits as classes", table(BITS), N, task="multiclass")
case("names of classes", table(["a", "b", "c"] * (N // 3)), N, task="multiclass")
case(
    "names without a task", table(["a", "b"] * (N // 2)), "names of classes pass --task multiclass"
)
case("classes with gaps", table(["a", "b", ""] * (N // 3)), N - 4, task="multiclass")
case("one name", table(["a"] * N), "expected 2 to 1000 classes .* got 1", task="multiclass")
case("no names", table([""] * N), "got 0", task="multiclass")
case("unknown task", PLAIN, "expected task out of", task="ranking")
TWO = "smiles,a,b\n" + "".join(f"{s},{i % 2},{i / 2 if i % 3 else ''}\n" for i, s in
                               enumerate(SMILES))  # fmt: skip
case("two targets", TWO, N, target_column="a,b")
case("two targets, one named", TWO, N - 4, target_column="b")
case("two targets with blanks", TWO, N, target_column=" a , b ")
case("two as classes", TWO, "expected one target_column", target_column="a,b", task="multiclass")
case("a target of gaps", TWO.replace(",0,", ",,").replace(",1,", ",,"), "gaps only",
     target_column="a,b")  # fmt: skip
# Molecules.
for smiles in ("C", "[Na+]", "[H]", "[H][H]", "[Na+].[Cl-]", "*", "*CC*", "[2H]C([2H])[2H]",
               "[U]", "[CH3:1][OH:2]", "C" * 1000, "C1CC1." * 20 + "C", "[Fe+2]", "F/C=C/F", "N#N",
               "C[C@H](N)C(=O)O", "[CH3]", "[O-][N+](=O)c1ccccc1", "O=C=O", "[*:1]CC",
               "N->[Cu]", "c1ccc2ccccc2c1", "CCO |$a;b;c$|", "C%12CCCCC%12", "[Og]",
               "[13CH4]"):  # fmt: skip
    case(f"molecule {smiles[:20]}", with_smiles(f'"{smiles}"'), N + 1)
ATROP = "Cc1cccc(O)c1-c1c(C)cccc1O |wU:7.7|"
case("atropisomer", with_smiles(f'"{ATROP}"'), N + 1)
for smiles in ("", " ", "C1CC", "CC(", "c1cccc1", "C(C)(C)(C)(C)C", "xyz", "CC>>CO", "CCO>>",
               "CCO ethanol", "CC O", "C" * 50 + "(", "[Xx]", "InChI=1S/CH4/h1H4", "50-00-0",
               "nan", "CCO |bad", "c1ccccc1N(", "[C", "C==C", "\u2603", "C\u2212C", "A>B>C",
               "methane"):  # fmt: skip
    case(f"no molecule {smiles[:20]!r}", with_smiles(f'"{smiles}"'), N)
case(
    "no molecule at all", table(smiles=["xx", "yy", "zz"]), "none that can be read: row 1 .line 2."
)
case("all of one molecule", table(smiles=["CCO"] * N), "at least 3 different molecules",
     split=["random"])  # fmt: skip
case("duplicates", table(smiles=SMILES * 2), 2 * N)
case("duplicates in other words", table(smiles=[*SMILES, "OCC", "C(O)C"]), N + 2, split=["random"])
case("two molecules", table(smiles=SMILES[:2]), "expected three molecules or more")
case("three molecules", table(smiles=SMILES[:3]), 3, split=["random"])
# Splits.
case("one scaffold", table(smiles=["c1ccccc1" + "C" * i for i in range(12)]),
     "expected three scaffolds or more .* got 1 .*use --split random")  # fmt: skip
case("no rings", table(smiles=["C" * i for i in range(1, 13)]), r"none \(no rings\); use --split")
case("no rings, random", table(smiles=["C" * i for i in range(1, 13)]), 12, split=["random"])
case("dominant scaffold", table(smiles=["c1ccccc1" + "C" * i for i in range(40)] + SMILES), 40 + N)
case("folds", PLAIN, N, split=["kfold", "4"])
case("too many folds", PLAIN, "at least 50 different molecules", split=["kfold", "50"])
for words in (["kfold"], ["kfold", "two"], ["kfold", "2"], ["kfold", "-3"], ["column"], ["time"],
              ["random", "7"], ["column", "a", "b"], []):  # fmt: skip
    case(f"split {' '.join(words)}", PLAIN, "expected (split|kfold)", split=words)
PARTS = ["train", "Val", " test ", "TRAIN", "valid", "test"] * 2
COLUMN = "smiles,y,part\n" + "".join(
    f"{s},{i},{p}\n" for i, (s, p) in enumerate(zip(SMILES, PARTS))
)
case("column of splits", COLUMN, N, split=["column", "part"])
case("column with empty cells", COLUMN.replace("Val", ""), N - 2, split=["column", "part"])
case("column with other words", COLUMN.replace("Val", "maybe"), "got 'maybe' in row 2 .line 3.",
     split=["column", "part"])  # fmt: skip
case("column without a test", COLUMN.replace(" test ", "train").replace("test", "train"),
     "got none for test", split=["column", "part"])  # fmt: skip
case("no such column of splits", PLAIN, "expected a column 'part'", split=["column", "part"])
case("target as split", PLAIN, "for both", split=["column", "y"])
case("target unknown in training", "smiles,y,z,part\n" + "".join(
     f"{s},{i},{'' if p.strip().lower() == 'train' else i},{p}\n"
     for i, (s, p) in enumerate(zip(SMILES, PARTS))), "none of 'z'; leave the target out",
     target_column="y,z", split=["column", "part"])  # fmt: skip
# Weights.
WEIGHTS = "smiles,y,w\n" + "".join(f"{s},{i},{i % 3}\n" for i, s in enumerate(SMILES))
case("weights", WEIGHTS, N - 4, weight_column="w")
case("negative weight", WEIGHTS.replace(",2\n", ",-2\n"), "weights of 0 or more", weight_column="w")
case("missing weight", WEIGHTS.replace(",2\n", ",\n"), "weights of 0 or more", weight_column="w")
case("weights of 0", re.sub(r",\d\n", ",0\n", WEIGHTS), "some weights above 0", weight_column="w")
case("weight that is a word", WEIGHTS.replace(",2\n", ",two\n"), "expected numbers",
     weight_column="w")  # fmt: skip
# Other formats.
SMI = "".join(f"{s} {i / 2}\n" for i, s in enumerate(SMILES))
case("smi", SMI, N, file="data.smi", target_column="name")
case("smi with tabs", SMI.replace(" ", "\t"), N, file="data.smi", target_column="name")
case("smi with a header", "smiles value\n" + SMI, N, file="data.smi", target_column="name")
case("smi of utf-16", SMI.encode("utf-16"), N, file="data.smi", target_column="name")
case("smi with blank lines", SMI.replace("\n", "\n\n"), N, file="data.smi", target_column="name")
case("smi with extensions", SMI + "CCO |$a;b;c$| 7\n", N + 1, file="d.smi", target_column="name")
case("smi with carriage returns", SMI.replace("\n", "\r"), N, file="d.smi", target_column="name")
case("smi without names", "CCO\nCC\n", "gaps only", file="d.smi", target_column="name")
case("smi without that column", SMI, "expected a column 'y'", file="d.smi")
case("smi with a smiles column", SMI, "expected no smiles_column", file="d.smi", smiles_column="a",
     target_column="name")  # fmt: skip
case("smi, empty", "", "which is empty", file="d.smi")
case("parquet that is none", PLAIN, "as a Parquet file|expected pyarrow", file="data.parquet")


def block(smiles, values, end="\n"):
    from rdkit import Chem

    lines = Chem.MolToMolBlock(Chem.MolFromSmiles(smiles)).rstrip("\n").split("\n")
    for name, value in values.items():
        lines += [f">  <{name}>", value, ""]
    return end.join([*lines, "$$$$", ""])


def sdf(end="\n"):
    return "".join(block(s, {"y": str(i / 2)}, end) for i, s in enumerate(SMILES))


case("sdf", sdf(), N, file="data.sdf")
case("sdf, gzip", gzip.compress(sdf().encode()), N, file="data.sdf.gz")
case("sdf, crlf", sdf("\r\n"), N, file="data.sdf")
case("sdf without its last end", sdf().rstrip().removesuffix("$$$$"), N, file="data.sdf")
case("sdf, empty record", sdf() + "\n$$$$\n", N, file="data.sdf")
case("sdf, broken record", sdf() + "x\ny\nz\nbroken\nM  END\n$$$$\n", N, file="data.sdf")
case("sdf without that column", sdf(), "expected a column 'z'", file="data.sdf", target_column="z")
case("sdf with a gap", sdf() + block("CCF", {"other": "1"}), N, file="data.sdf")
case("sdf with a word", sdf() + block("CCF", {"y": "high"}), "got 'high'", file="data.sdf")
case("sdf that is csv", PLAIN, "expected a column", file="data.sdf")
