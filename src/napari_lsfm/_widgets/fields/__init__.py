"""Fields of forms: small widgets of magicgui's kind, each with a value, which work in any of its containers."""

from napari_lsfm._widgets.fields._base import Field
from napari_lsfm._widgets.fields._box import BoxField
from napari_lsfm._widgets.fields._chain import ChainField
from napari_lsfm._widgets.fields._choice import Choice, ChoiceEdit, ChoiceOrFile
from napari_lsfm._widgets.fields._file import FileField
from napari_lsfm._widgets.fields._make import make_field, nested
from napari_lsfm._widgets.fields._numbers import Number, Numbers, OneOrThree, number
from napari_lsfm._widgets.fields._orientation import OrientationEdit, OrientationField, edge_letters, phantom_slices
from napari_lsfm._widgets.fields._paths import PathsField
from napari_lsfm._widgets.fields._picture import Grey, Picture, as_grey
from napari_lsfm._widgets.fields._regions import RegionsField
from napari_lsfm._widgets.fields._rows import Rows, Scrolled, beside, small_button
from napari_lsfm._widgets.fields._spaces import SpaceField, SpacePicture
from napari_lsfm._widgets.fields._text import Listed, PathField, Text, Texts
from napari_lsfm._widgets.fields._tick import Tick
from napari_lsfm._words import Words

__all__ = [
    "BoxField",
    "ChainField",
    "Choice",
    "ChoiceEdit",
    "ChoiceOrFile",
    "Field",
    "FileField",
    "Grey",
    "Listed",
    "Number",
    "Numbers",
    "OneOrThree",
    "OrientationEdit",
    "OrientationField",
    "PathField",
    "PathsField",
    "Picture",
    "RegionsField",
    "Rows",
    "Scrolled",
    "SpaceField",
    "SpacePicture",
    "Text",
    "Texts",
    "Tick",
    "Words",
    "as_grey",
    "beside",
    "edge_letters",
    "make_field",
    "nested",
    "number",
    "phantom_slices",
    "small_button",
]
