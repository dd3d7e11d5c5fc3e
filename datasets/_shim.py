import torch
from ogb.utils.mol import smiles2graph
from rdkit import Chem
from torch_geometric.data import Data


def from_smiles(smiles):
    mol = Chem.MolFromSmiles(smiles) if smiles else None
    if mol is None or mol.GetNumAtoms() == 0:
        raise ValueError("bad smiles")
    g = smiles2graph(smiles)
    return Data(
        x=torch.from_numpy(g["node_feat"]),
        edge_index=torch.from_numpy(g["edge_index"]),
        edge_attr=torch.from_numpy(g["edge_feat"]),
        smiles=smiles,
    )
