"""Fields of forms: small widgets of magicgui's kind, each with a value, which work in any of its containers."""

from napari_lsfm._widgets.fields._base import Field
from napari_lsfm._widgets.fields._chain import ChainEdit, ChainField
from napari_lsfm._widgets.fields._choice import Choice, ChoiceEdit, ChoiceOrFile
from napari_lsfm._widgets.fields._file import FileEdit, FileField
from napari_lsfm._widgets.fields._make import make_field, nested
from napari_lsfm._widgets.fields._numbers import Number, Numbers, OneOrThree, number
from napari_lsfm._widgets.fields._orientation import OrientationEdit, OrientationField, edge_letters, phantom_slices
from napari_lsfm._widgets.fields._picture import Grey, Picture, as_grey
from napari_lsfm._widgets.fields._regions import RegionsEdit, RegionsField
from napari_lsfm._widgets.fields._rows import Rows, Scrolled, Section, Words, align, beside, small_button
from napari_lsfm._widgets.fields._spaces import SpaceField, SpacePicture
from napari_lsfm._widgets.fields._text import Listed, PathField, Text, Texts
from napari_lsfm._widgets.fields._tick import Tick

__all__ = [
    "ChainEdit",
    "ChainField",
    "Choice",
    "ChoiceEdit",
    "ChoiceOrFile",
    "Field",
    "FileEdit",
    "FileField",
    "Grey",
    "Listed",
    "Number",
    "Numbers",
    "OneOrThree",
    "OrientationEdit",
    "OrientationField",
    "PathField",
    "Picture",
    "RegionsEdit",
    "RegionsField",
    "Rows",
    "Scrolled",
    "Section",
    "SpaceField",
    "SpacePicture",
    "Text",
    "Texts",
    "Tick",
    "Words",
    "align",
    "as_grey",
    "beside",
    "edge_letters",
    "make_field",
    "nested",
    "number",
    "phantom_slices",
    "small_button",
]
