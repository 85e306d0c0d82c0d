//! Draws plots as SVG: dark on white wherever they are shown, each curve with a colour and a mark of its own. The same values
//! make the same file.

use std::ops::Range;

use plotters::coord::Shift;
use plotters::coord::ranged1d::{KeyPointHint, NoDefaultFormatting, ValueFormatter};
use plotters::prelude::*;
use plotters::style::text_anchor::{HPos, Pos, VPos};

use super::growth::{Curve, Growth, Plot};
use super::ruler::Ruler;

/// Width and height in pixels.
const SIZE: (u32, u32) = (760, 440);

/// What title and legend have of that.
const HEAD: u32 = 76;

/// About how wide a letter of the legend is.
const LETTER: f64 = 7.8;

const INK: RGBColor = RGBColor(40, 40, 40);
const FAINT: RGBColor = RGBColor(222, 222, 222);

/// Of the contenders: colours that nobody takes for one another, however he sees them.
const HUES: [(&str, RGBColor); 5] = [
    ("gatepost", RGBColor(0, 114, 178)),
    ("postscreen", RGBColor(213, 94, 0)),
    ("haproxy", RGBColor(0, 138, 100)),
    ("nginx", RGBColor(170, 68, 153)),
    ("direct", RGBColor(110, 110, 110)),
];

/// Of all others, in turns.
const OTHERS: [RGBColor; 3] = [RGBColor(51, 34, 136), RGBColor(204, 102, 119), RGBColor(153, 133, 0)];

type Area<'a> = DrawingArea<SVGBackend<'a>, Shift>;

/// The file of one plot.
pub fn svg(growth: &Growth, plot: &Plot) -> Result<String, String> {
    let mut file = String::new();
    let area = SVGBackend::with_string(&mut file, SIZE).into_drawing_area();
    draw(&area, growth, plot).map_err(|error| format!("{}: {error}", plot.id))?;
    drop(area);
    // As every file of text ends.
    Ok(file.trim_end().to_owned() + "\n")
}

type Drawn = Result<(), DrawingAreaErrorKind<std::io::Error>>;

fn draw(area: &Area<'_>, growth: &Growth, plot: &Plot) -> Drawn {
    area.fill(&WHITE)?;
    let (head, body) = area.split_vertically(HEAD);
    let curves = growth.of(plot);
    top(&head, growth.rounds, plot, curves)?;
    let sizes = curves.iter().flat_map(|curve| curve.points.keys().map(|size| f64::from(*size)));
    let values = curves.iter().flat_map(|curve| curve.points.values().flatten().copied());
    let (across, up) = (Ruler::over(sizes, plot.across.log), Ruler::over(values, plot.up.log));
    let mut chart = ChartBuilder::on(&body)
        .margin_left(12)
        .margin_right(28)
        .margin_bottom(8)
        .x_label_area_size(44)
        .y_label_area_size(72)
        .build_cartesian_2d(across.clone(), up.clone())?;
    chart
        .configure_mesh()
        .bold_line_style(FAINT)
        .light_line_style(TRANSPARENT)
        .axis_style(INK)
        .label_style(font(16))
        .axis_desc_style(font(17))
        .x_desc(plot.across.label)
        .y_desc(plot.up.label)
        .draw()?;
    for (at, curve) in curves.iter().enumerate() {
        let look = Look::of(curve, at);
        let place = |size: u32, value| Some((across.place(f64::from(size))?, up.place(value)?));
        for (size, summary) in curve.summaries() {
            let ends: Vec<_> = [summary.low, summary.high].into_iter().filter_map(|end| place(size, end)).collect();
            chart.draw_series([PathElement::new(ends, look.line(1))])?;
        }
        let medians: Vec<_> = curve.summaries().filter_map(|(size, summary)| place(size, summary.median)).collect();
        chart.draw_series(LineSeries::new(medians.iter().copied(), look.line(2)))?;
        chart.draw_series(medians.into_iter().map(|median| EmptyElement::at(median) + look.mark()))?;
    }
    area.present()
}

/// Title and legend.
fn top(head: &Area<'_>, rounds: usize, plot: &Plot, curves: &[Curve]) -> Drawn {
    head.draw(&Text::new(plot.title, (20, 12), font(22)))?;
    if rounds > 1 {
        let how = format!("medians of {rounds} rounds, bars from the least to the most");
        let to_the_right = font(15).pos(Pos::new(HPos::Right, VPos::Top));
        head.draw(&Text::new(how, (SIZE.0 as i32 - 28, 17), to_the_right))?;
    }
    let mut left = 24;
    for (at, curve) in curves.iter().enumerate() {
        let look = Look::of(curve, at);
        head.draw(&PathElement::new([(left, 54), (left + 26, 54)], look.line(2)))?;
        head.draw(&(EmptyElement::at((left + 13, 54)) + look.mark()))?;
        head.draw(&Text::new(curve.name.clone(), (left + 34, 48), font(17)))?;
        left += 58 + (curve.name.chars().count() as f64 * LETTER) as i32;
    }
    Ok(())
}

fn font(size: u32) -> TextStyle<'static> {
    ("sans-serif", size).into_font().color(&INK)
}

impl Ranged for Ruler {
    type FormatOption = NoDefaultFormatting;
    type ValueType = f64;

    fn map(&self, place: &f64, (first, last): (i32, i32)) -> i32 {
        let [begin, end] = self.ends;
        first + (f64::from(last - first) * (place - begin) / (end - begin)).round() as i32
    }

    fn key_points<H: KeyPointHint>(&self, _most: H) -> Vec<f64> {
        self.ticks.clone()
    }

    fn range(&self) -> Range<f64> {
        let [begin, end] = self.ends;
        begin..end
    }
}

impl ValueFormatter<f64> for Ruler {
    fn format_ext(&self, place: &f64) -> String {
        self.name(*place)
    }
}

/// A contender looks alike in all plots.
#[derive(Clone, Copy)]
struct Look {
    mark: usize,
    hue: RGBColor,
}

impl Look {
    fn of(curve: &Curve, at: usize) -> Self {
        let known = HUES.iter().position(|(name, _)| *name == curve.name);
        known.map_or(Self { mark: at, hue: OTHERS[at % OTHERS.len()] }, |mark| Self { mark, hue: HUES[mark].1 })
    }

    fn line(self, width: u32) -> ShapeStyle {
        self.hue.stroke_width(width)
    }

    /// The shape of its points, around the place that they are at.
    fn mark(self) -> Polygon<(i32, i32)> {
        let corners: &[(i32, i32)] = match self.mark % HUES.len() {
            0 => &[(-5, -2), (-2, -5), (2, -5), (5, -2), (5, 2), (2, 5), (-2, 5), (-5, 2)],
            1 => &[(-6, 4), (0, -6), (6, 4)],
            2 => &[(-4, -4), (4, -4), (4, 4), (-4, 4)],
            3 => &[(-6, 0), (0, -6), (6, 0), (0, 6)],
            _ => &[(-6, -4), (0, 6), (6, -4)],
        };
        Polygon::new(corners, self.hue.filled())
    }
}

#[cfg(test)]
mod tests {
    use super::super::growth::{PARKED_PROCESSOR, PLOTS, SESSIONS};
    use super::*;

    fn growth() -> Growth {
        let mut growth = Growth { rounds: 3, ..Growth::default() };
        for (at, plot) in PLOTS.iter().enumerate() {
            for (size, value) in [(1, 1.0), (1000, 8.0), (1, 1.5), (1000, 9.0), (1, 2.0), (1000, 10.0)] {
                growth.add(plot, "gatepost", size, value);
                growth.add(plot, "a & b < c", size, value * (at + 2) as f64);
            }
        }
        growth
    }

    #[test]
    fn a_plot_says_what_it_is_of() {
        for plot in &PLOTS {
            let svg = svg(&growth(), plot).unwrap();
            for word in [plot.title, plot.across.label, plot.up.label, "gatepost", "a &amp; b &lt; c", "medians of 3"] {
                assert!(svg.contains(word), "{}: {word}", plot.id);
            }
            assert!(svg.starts_with("<svg ") && svg.ends_with("</svg>\n"), "{svg}");
        }
    }

    #[test]
    fn each_curve_has_its_line_and_its_bars() {
        let svg = svg(&growth(), &SESSIONS).unwrap();
        for hue in ["#0072B2", "#CC6677"] {
            // One in the legend, one of medians, and one for each size.
            assert_eq!(
                svg.matches(&format!("<polyline fill=\"none\" opacity=\"1\" stroke=\"{hue}\"")).count(),
                4,
                "{svg}"
            );
        }
        assert!(svg.contains(">10</text>") || svg.contains(">\n10\n</text>"), "{svg}");
    }

    #[test]
    fn the_same_values_make_the_same_file() {
        assert_eq!(svg(&growth(), &SESSIONS), svg(&growth(), &SESSIONS));
    }

    #[test]
    fn nothing_to_draw_is_no_error_nor_is_what_has_no_place() {
        assert!(svg(&Growth::default(), &SESSIONS).is_ok());
        let mut growth = growth();
        growth.add(&PARKED_PROCESSOR, "gatepost", 5, 0.0);
        growth.add(&PARKED_PROCESSOR, "nginx", 5, -1.0);
        let svg = svg(&growth, &PARKED_PROCESSOR).unwrap();
        assert!(!svg.contains("NaN") && !svg.contains("inf"), "{svg}");
    }
}
