from interp.reports.config import Entry as Entry
from interp.reports.config import Gallery as Gallery
from interp.reports.config import Item as Item
from interp.reports.config import PageConfig as PageConfig
from interp.reports.config import Section as Section
from interp.reports.config import Table as Table
from interp.reports.page import report as report
